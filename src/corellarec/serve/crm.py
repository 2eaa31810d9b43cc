"""The CRM's thread: requests that wait are scored together."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from corellarec.base.metrics import Floats, sigmoid
from corellarec.cascade.budget import Mask
from corellarec.cascade.policy import Known, known
from corellarec.crm.batch import Reader
from corellarec.crm.score import crm_logits
from corellarec.data.histories import candidates_over
from corellarec.serve.histories import Histories, UserHistory
from corellarec.serve.model import ServedModel

SMOOTHING = 0.2  # weight of the newest batch in the mean time for a row


class OverloadedError(Exception):
    """The answer would come after its deadline.

    Args:
        wait_s: Seconds after which it is worth asking again.
    """

    def __init__(self, wait_s: float) -> None:
        super().__init__(wait_s)
        self.wait_s = wait_s


@dataclass(eq=False)
class Ask:
    """Candidates of one user that are to be scored.

    Args:
        model: What scores them.
        user: Id.
        items: ``(n,)`` int64 item numbers.
        deadline: Of the monotonic clock, seconds.
        history: In place of the stored one.
        future: Of the request's loop; set to a :class:`Scored`.
    """

    model: ServedModel
    user: str
    items: NDArray[np.int64]
    deadline: float
    history: UserHistory | None = None
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    def __post_init__(self) -> None:
        self.future: asyncio.Future[Scored] = self.loop.create_future()

    def finish(self, result: "Scored | Exception") -> None:
        """Hand the result to the request, if it still waits; from any thread."""
        self.loop.call_soon_threadsafe(_set, self.future, result)


def _set(future: "asyncio.Future[Scored]", result: "Scored | Exception") -> None:
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)


@dataclass(frozen=True)
class Scored:
    """What the CRM and the router say of an ask's candidates.

    Args:
        user: The history that was read.
        known: What is known before the language model is asked.
        p_crm: ``(n,)`` the calibrated CRM's probabilities.
        value: ``(n,)`` nats, the value of asking the language model.
        above: ``(n,)`` whether that is above the threshold.
    """

    user: UserHistory
    known: Known
    p_crm: Floats
    value: Floats
    above: Mask

    def __getitem__(self, index: NDArray[np.int64]) -> "Scored":
        return Scored(
            self.user,
            self.known[index],
            self.p_crm[index],
            self.value[index],
            self.above[index],
        )


def score(
    model: ServedModel,
    reader: Reader,
    users: Sequence[UserHistory],
    items: Sequence[NDArray[np.int64]],
) -> list[Scored]:
    """Score candidates of several users in one pass.

    Args:
        model: What scores them.
        reader: The calling thread's.
        users: Their histories.
        items: Item numbers of the candidates of each.
    """
    numbers, histories = [one.number for one in users], [one.history for one in users]
    view, samples = candidates_over(model.log, numbers, histories, items)
    logit = crm_logits(model.crm, reader.over(view), samples).double().numpy()
    facts = known(view, samples, logit, model.recipe.crm.history_length)
    router = model.router
    p_crm, value, above = sigmoid(router.crm(logit)), router.value(facts), router.above(facts)
    found, start = [], 0
    for user, own in zip(users, items, strict=True):
        part = slice(start, start + len(own))
        found.append(Scored(user, facts[part], p_crm[part], value[part], above[part]))
        start += len(own)
    return found


class CrmThread:
    """Scores what waits, in batches.

    An ask whose answer would come too late is refused when it arrives, by the mean time that rows
    took lately, so that the queue is never longer than can be answered.

    Args:
        histories: Of users whose asks bring none.
        batch_rows: Rows scored at once.
    """

    def __init__(self, histories: Histories, batch_rows: int) -> None:
        self.histories, self.batch_rows = histories, batch_rows
        self.rows_waiting, self.seconds_per_row, self.last_batch = 0, 0.0, 0
        self._asks: deque[Ask] = deque()
        self._wake = threading.Condition()
        self._ended = False
        self._readers: dict[ServedModel, Reader] = {}
        self._thread = threading.Thread(target=self._work, name="crm", daemon=True)
        self._thread.start()

    def submit(self, ask: Ask) -> None:
        """Queue an ask.

        Raises:
            OverloadedError: If its answer would come too late.
        """
        with self._wake:
            wait = (self.rows_waiting + len(ask.items)) * self.seconds_per_row
            if self.rows_waiting and time.monotonic() + wait > ask.deadline:
                raise OverloadedError(wait)
            self.rows_waiting += len(ask.items)
            self._asks.append(ask)
            self._wake.notify()

    def close(self) -> None:
        """End the thread once nothing waits."""
        with self._wake:
            self._ended = True
            self._wake.notify()
        self._thread.join()

    def _work(self) -> None:
        torch.set_num_threads(1)
        while True:
            with self._wake:
                while not self._asks and not self._ended:
                    self._wake.wait()
                if not self._asks:
                    return
                asks = [self._asks.popleft()]
                rows = len(asks[0].items)
                while self._asks and rows + len(self._asks[0].items) <= self.batch_rows:
                    asks.append(self._asks.popleft())
                    rows += len(asks[-1].items)
            begun = time.monotonic()
            self._score([ask for ask in asks if ask.deadline > begun])
            seconds = (time.monotonic() - begun) / max(rows, 1)
            with self._wake:
                self.rows_waiting -= rows
                self.last_batch = rows
                self.seconds_per_row += SMOOTHING * (seconds - self.seconds_per_row)

    def _score(self, asks: Sequence[Ask]) -> None:
        models = {ask.model: None for ask in asks}
        for model in models:
            reader = self._reader(model)
            own = [ask for ask in asks if ask.model is model]
            try:
                users = [ask.history or self.histories.of(model, ask.user) for ask in own]
                results: Sequence[Scored | Exception] = score(
                    model, reader, users, [ask.items for ask in own]
                )
            except Exception as error:  # the requests' answer is 500, and the thread goes on
                results = [error] * len(own)
            for ask, result in zip(own, results, strict=True):
                ask.finish(result)

    def _reader(self, model: ServedModel) -> Reader:
        if model not in self._readers:
            if len(self._readers) > 3:  # models that have gone
                self._readers.clear()
            self._readers[model] = model.reader()
        return self._readers[model]
