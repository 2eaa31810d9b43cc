"""A cascade in the shadow: it answers what the one in service answered, and nobody is served."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from corellarec.base.metrics import Floats
from corellarec.serve.crm import OverloadedError
from corellarec.serve.decisions import Decided
from corellarec.serve.lineup import InService
from corellarec.serve.problems import ProblemError
from corellarec.serve.requests import Asked, ask_crm, inline_history, numbers_of
from corellarec.serve.schemas import PastEvent
from corellarec.serve.service import Service

MOST_WAITING = 100  # requests that a shadow still has to answer; further ones it does not see
TIME_S = 5.0


def compare(
    service: Service, asked: Asked, history: Sequence[PastEvent] | None, served: Floats
) -> None:
    """Let the shadow answer a request too, if there is one; returns at once.

    Its answers go to the log of decisions, with the reason ``shadow``. Its language model is not
    asked: it would cost what the one in service costs.

    Args:
        service: Whose shadow it is.
        asked: The request.
        history: That it brought.
        served: ``(n,)`` the probabilities that were served.
    """
    shadow = service.lineup.shadow
    if shadow is None or len(service.shadow_tasks) >= MOST_WAITING:
        return
    task = asyncio.create_task(_answer(service, shadow, asked, history, served))
    service.shadow_tasks.add(task)
    task.add_done_callback(service.shadow_tasks.discard)


async def _answer(
    service: Service,
    shadow: InService,
    asked: Asked,
    history: Sequence[PastEvent] | None,
    served: Floats,
) -> None:
    begun, model = time.monotonic(), shadow.model
    with contextlib.suppress(ProblemError, OverloadedError, TimeoutError):
        items = numbers_of(model, asked.ids, "candidates")
        own = inline_history(service, model, asked.user, history)
        scored = await ask_crm(
            service, service.rankings, model, asked.user, items, begun + TIME_S, own
        )
        for difference in np.abs(scored.p_crm - served):
            service.metrics.shadow_difference.observe(difference)
        if service.decisions:
            count = len(items)
            service.decisions.add(
                Decided(
                    request_id=asked.request_id,
                    time=datetime.now(UTC),
                    user=asked.user,
                    model=model.version,
                    items=asked.ids,
                    p_crm=scored.p_crm,
                    value=scored.value,
                    p=scored.p_crm,
                    p_llm=np.full(count, np.nan),
                    asked=np.zeros(count, dtype=bool),
                    above=scored.above,
                    threshold=model.router.rule.threshold,
                    credit=0.0,
                    eligible=False,
                    reasons=["shadow"] * count,
                    milliseconds=1000 * (time.monotonic() - begun),
                )
            )
