"""What the language model's thread is asked."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from corellarec.base.metrics import Floats
from corellarec.data.log import Log, Samples
from corellarec.serve.histories import UserHistory
from corellarec.serve.model import ServedModel


@dataclass(eq=False)  # arrays have no one truth
class LlmWork:
    """Rows to score.

    Args:
        model: Of the request.
        key: Of the user's state; None where the history is the request's own.
        user: The history that the CRM read.
        items: ``(n,)`` item numbers.
        deadline: Of the monotonic clock, seconds.
        prepared: What is scored in place of the items after the history: ``n`` samples over a view
            of the model's log. The model's tables may be others than those in service.
    """

    model: ServedModel
    key: str | None
    user: UserHistory
    items: NDArray[np.int64]
    deadline: float = math.inf
    prepared: tuple[Log, Samples] | None = None


@dataclass(eq=False)
class LlmAsk(LlmWork):
    """Rows that a request waits for.

    Args:
        unasked: Called, from any thread, with the number of rows that no call is made for.

    Attributes:
        future: Of the request's loop; set to ``(n,)`` raw logits, to an error, or to None where it
            was too late to ask.
        tokens: That it takes, about.
    """

    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    tokens: float = 0.0
    unasked: Callable[[int], None] = lambda rows: None

    def __post_init__(self) -> None:
        self.future: asyncio.Future[Floats | Exception | None] = self.loop.create_future()

    def finish(self, result: Floats | Exception | None) -> None:
        """Set the future, from any thread."""

        def set_result() -> None:
            if not self.future.done():
                self.future.set_result(result)

        self.loop.call_soon_threadsafe(set_result)
