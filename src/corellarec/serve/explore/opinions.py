"""What both models say to a person: the router's decision, with a budget of the explorer's own."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from corellarec.base.metrics import Floats, sigmoid
from corellarec.data.histories import candidates_over, over
from corellarec.data.log import Log, Samples
from corellarec.serve.answers import Answer
from corellarec.serve.asks import LlmAsk
from corellarec.serve.budget import Bucket
from corellarec.serve.crm import Scored
from corellarec.serve.histories import UserHistory
from corellarec.serve.lineup import InService
from corellarec.serve.schemas import Reason

PATIENCE_S = 20.0  # a person waits for the language model,
HISTORY_S = 120.0  # and longer for its opinion of a whole history


@dataclass(frozen=True)
class Asking:
    """Candidates of one user, as a page shows them.

    Args:
        now: The cascade, with the page's titles.
        user: The key of the user's state in the language model's thread; None where the history
            or the titles are not the user's own.
        history: That both models read.
        items: ``(n,)`` item numbers.
        scored: The CRM's answer.
    """

    now: InService
    user: str | None
    history: UserHistory
    items: NDArray[np.int64]
    scored: Scored


class Opinions:
    """Asks the language model for people, so many rows a minute.

    Args:
        rows_per_min: Of all people together.
    """

    def __init__(self, rows_per_min: int) -> None:
        self.bucket = Bucket(rows_per_min, rows_per_s=rows_per_min / 60, credit=rows_per_min)
        self.bucket.saved(0.0)  # none of it outlives the process

    async def decided(self, asking: Asking) -> Answer:
        """What the cascade answers: the language model is asked where the router would ask it."""
        rows = np.flatnonzero(asking.scored.above)
        helps = asking.now.model.router.rule.verdict.helps
        return await self._ask(asking, rows, "below_threshold" if helps else "verdict")

    async def asked_anyway(self, asking: Asking) -> Answer:
        """What the cascade would answer if every row were routed."""
        return await self._ask(asking, np.arange(len(asking.items)), "budget")

    async def _ask(self, asking: Asking, rows: NDArray[np.int64], rest: Reason) -> Answer:
        scored, llm, router = asking.scored, asking.now.llm, asking.now.model.router
        count = len(asking.items)
        p, (p_llm, llm_logit) = scored.p_crm.copy(), np.full((2, count), np.nan)
        if llm is None:
            return Answer(scored, p, p_llm, ["llm_off"] * count, llm_logit)
        reasons: list[Reason] = [rest] * count
        rows = rows[np.argsort(-scored.value[rows], kind="stable")]
        granted = self.bucket.take(0, len(rows))
        for row in rows[granted:]:
            reasons[row] = "budget"
        if not granted:
            return Answer(scored, p, p_llm, reasons, llm_logit)
        chosen, user = rows[:granted], asking.history
        prepared = None
        if asking.user is None:
            prepared = candidates_over(
                asking.now.model.log, [user.number], [user.history], [asking.items[chosen]]
            )
        outcome, logits = await self._answered(
            asking.now, asking.user, user, asking.items[chosen], prepared
        )
        if logits is not None:
            p[chosen] = router.answer(scored.known[chosen], logits)
            llm_logit[chosen], p_llm[chosen] = logits, sigmoid(router.llm(logits))
        for row in chosen:
            reasons[row] = outcome
        return Answer(scored, p, p_llm, reasons, llm_logit)

    async def of_history(
        self, now: InService, history: UserHistory, newest: int
    ) -> tuple[Reason, Floats | None]:
        """The language model's probability of each of a history's newest rows, before it.

        Returns:
            How asking ended, and ``(newest,)`` where it ended well, oldest first.
        """
        if now.llm is None:
            return "llm_off", None
        view, samples = past(now.model.log, history)
        samples = samples[-newest:]
        granted = self.bucket.take(0, len(samples))
        if granted < len(samples):
            self.bucket.give_back(granted)
            return "budget", None
        outcome, logits = await self._answered(
            now, None, history, samples.item.numpy(), (view, samples), HISTORY_S
        )
        return outcome, None if logits is None else sigmoid(now.model.router.llm(logits))

    async def _answered(
        self,
        now: InService,
        key: str | None,
        user: UserHistory,
        items: NDArray[np.int64],
        prepared: tuple[Log, Samples] | None,
        patience_s: float = PATIENCE_S,
    ) -> tuple[Reason, Floats | None]:
        assert now.llm is not None
        deadline = time.monotonic() + patience_s
        ask = LlmAsk(now.model, key, user, items, deadline, prepared, unasked=self.bucket.give_back)
        return await now.llm.ask(ask)


def past(log: Log, user: UserHistory) -> tuple[Log, Samples]:
    """Every row of a history as a sample after those before it."""
    history, count = user.history, len(user.history)
    place = torch.arange(count)
    samples = Samples(
        torch.full((count,), user.number),
        torch.from_numpy(history.item.astype(np.int64)),
        torch.zeros(count, dtype=torch.int64),
        place,
        torch.from_numpy(history.row),
    )
    view = over(log, [history])
    view.history_user[:count] = user.number  # the samples are rows of this history
    return view, samples
