"""The run's validation rows, as the cascade in service answers them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest

from corellarec.base.bootstrap import Bootstrap, interval
from corellarec.base.metrics import Floats, Labels, auc, losses, sigmoid
from corellarec.base.stored import read_stored
from corellarec.cascade.policy import known
from corellarec.crm.score import crm_logits
from corellarec.data.splits import SPLITS
from corellarec.evaluation.segments import cuts
from corellarec.serve.model import ServedModel

NEAREST = 200  # validation rows that say how sure a probability is
RESAMPLES = 500
GROUPS = 3
BUDGETS = np.linspace(0, 1, 21)


@dataclass(frozen=True)
class Spread:
    """How often rows with like probabilities were positive.

    Args:
        rows: Validation rows whose probabilities are nearest.
        share: Of these, positive.
        low, high: 95 % interval of that share (Wilson), rows taken as independent.
    """

    rows: int
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class AtBudget:
    """What a budget brings on the validation rows.

    Args:
        asked: Share of rows that the LLM answers.
        auc, log_loss: Of the cascade.
        saved: Log loss saved on a row, over all rows, in nats.
        low, high: Its 95 % interval, users resampled.
    """

    asked: float
    auc: float
    log_loss: float
    saved: float
    low: float
    high: float


@dataclass(frozen=True)
class GroupAsked:
    """How many rows of a group would be asked about.

    Args:
        way, name: What the groups differ in, and which it is.
        rows: In the group.
        asked: Share of them that the LLM would answer.
        saved: Log loss saved on a row that it answers, in nats; NaN without one.
    """

    way: str
    name: str
    rows: int
    asked: float
    saved: float


class Validation:
    """Validation rows that both models answered.

    Args:
        user: ``(n,)`` numbers of users.
        label: ``(n,)``.
        p: By ``crm``, ``llm`` and ``both`` (what a routed row gets): ``(n,)`` probabilities.
        value: ``(n,)`` nats, of asking.
        ways: How rows are grouped: a mask for each group.
    """

    def __init__(
        self,
        user: NDArray[np.int64],
        label: Labels,
        p: Mapping[str, Floats],
        value: Floats,
        ways: Mapping[str, Mapping[str, NDArray[np.bool_]]],
    ) -> None:
        self.user, self.label, self.p, self.value, self.ways = user, label, p, value, ways
        self._order = np.argsort(-value, kind="stable")
        self._saved = losses(label, p["crm"]) - losses(label, p["both"])
        self._bootstrap = Bootstrap(user, RESAMPLES, seed=0)
        self._sorted = {
            who: (np.sort(one), label[np.argsort(one, kind="stable")]) for who, one in p.items()
        }

    @classmethod
    def of_run(cls, run: Path | None, model: ServedModel) -> "Validation | None":
        """The rows of a run's directory that its LLM scored; None where they are not there.

        Args:
            run: The run.
            model: The run's cascade, whose log holds these rows.
        """
        path = run / "scores" / "validation" / "scores.parquet" if run else None
        if path is None or not path.is_file():
            return None
        table = read_stored(path, {"row": pl.Int64(), "llm_logit": pl.Float32()})
        rows = torch.from_numpy(table["row"].to_numpy().copy())
        log, router = model.log, model.router
        in_log = len(rows) > 1 and int(rows.min()) >= 0 and int(rows.max()) < len(log)
        if not in_log or not (log.split[rows] == SPLITS.index("validation")).all():
            return None  # a cascade of another log was put into the run
        samples = log.samples(rows)
        logit = crm_logits(model.crm, model.reader(), samples).double().numpy()
        facts = known(log, samples, logit, model.recipe.crm.history_length)
        llm_logit = table["llm_logit"].cast(pl.Float64).to_numpy()
        return cls(
            log.user[rows].long().numpy(),
            log.labels(rows).numpy(),
            {
                "crm": sigmoid(router.crm(logit)),
                "llm": sigmoid(router.llm(llm_logit)),
                "both": router.answer(facts, llm_logit),
            },
            router.value(facts),
            cuts(log, rows, GROUPS),
        )

    def at(self, budget: float) -> AtBudget:
        """What a budget brings.

        Args:
            budget: Share of the rows, 0 to 1.
        """
        chosen = self._order[: round(budget * len(self._order))]
        p, saved = self.p["crm"].copy(), np.zeros(len(self.label))
        p[chosen], saved[chosen] = self.p["both"][chosen], self._saved[chosen]
        low, high = interval(self._bootstrap.mean(saved))
        loss = float(losses(self.label, p).mean())
        share = len(chosen) / len(p)
        return AtBudget(share, auc(self.label, p), loss, float(saved.mean()), low, high)

    def curve(self) -> Floats:
        """``(21,)`` log loss at the budgets ``BUDGETS``."""
        saved = np.concatenate([[0.0], self._saved[self._order].cumsum()])
        places = np.round(BUDGETS * len(self._order)).astype(int)
        return losses(self.label, self.p["crm"]).mean() - saved[places] / len(self.label)

    def groups(self, budget: float) -> list[GroupAsked]:
        """Who would be asked about at a budget."""
        asked = np.zeros(len(self.label), dtype=bool)
        asked[self._order[: round(budget * len(self._order))]] = True
        return [
            GroupAsked(
                way,
                name,
                int(inside.sum()),
                float(asked[inside].mean()),
                float(self._saved[chosen].mean()) if (chosen := inside & asked).any() else np.nan,
            )
            for way, cut in self.ways.items()
            for name, inside in cut.items()
            if inside.any()
        ]

    def spread(self, who: str, p: float) -> Spread:
        """How often validation rows with a probability near ``p`` were positive."""
        values, labels = self._sorted[who]
        most = min(NEAREST, len(values))
        place = int(np.searchsorted(values, p))
        begin = min(max(place - most // 2, 0), len(values) - most)
        positive = int(labels[begin : begin + most].sum())
        found = binomtest(positive, most).proportion_ci(method="wilson")
        return Spread(most, positive / most, float(found.low), float(found.high))

    def disagreeing(self) -> NDArray[np.int64]:
        """Numbers of the tenth of users about whom the models disagree most."""
        users, place = np.unique(self.user, return_inverse=True)
        apart = np.abs(self.p["llm"] - self.p["crm"])
        mean = np.bincount(place, apart) / np.bincount(place)
        return users[np.argsort(-mean, kind="stable")[: max(1, len(users) // 10)]]
