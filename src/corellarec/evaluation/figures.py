"""Metrics of predictors over the same test rows, with paired intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corellarec.base import metrics
from corellarec.base.bootstrap import Bootstrap, interval
from corellarec.base.metrics import Floats, Labels, user_aucs
from corellarec.evaluation.parts import Compared, Figure, PredictorRow

TABLE_METRICS = ("auc", "log_loss", "accuracy", "uauc", "calibration_error")
COMPARED_METRICS = ("auc", "log_loss")


class Figures:
    """Measures probabilities on one set of rows.

    A figure is the mean over seeds, and its 95 % interval that of the mean over seeds with users
    resampled; differences are paired, by users and by seeds. Of fewer than two users no interval
    can be estimated.

    Args:
        label: ``(n,)`` of 0 and 1.
        user: ``(n,)`` user numbers.
        bootstrap: Resamples of the rows' users.
    """

    def __init__(self, label: Labels, user: NDArray[np.int64], bootstrap: Bootstrap) -> None:
        self.label, self.user, self.bootstrap = label, user, bootstrap
        self.users = len(np.unique(user))
        self._cache: dict[tuple[str, int], tuple[Floats, float, Floats]] = {}

    def of(self, rows: NDArray[Any]) -> "Figures":
        """The same for some of the rows: an index or a mask."""
        return Figures(self.label[rows], self.user[rows], self.bootstrap.of(rows))

    def value(self, metric: str, p: Floats) -> float:
        """One of ``METRICS``, or ``uauc``."""
        if metric == "uauc":
            return metrics.uauc(self.label, p, self.user)
        if metric == "calibration_error":
            return metrics.calibration_error(self.label, p, self.user)
        return metrics.METRICS[metric](self.label, p)

    def figure(self, metric: str, p: Sequence[Floats], reference: Sequence[Floats] = ()) -> Figure:
        """A metric, or its difference from a reference.

        Args:
            metric: One of ``TABLE_METRICS``.
            p: ``(n,)`` probabilities for each seed.
            reference: The same of the reference; a single array is that of every seed.
        """
        values, resampled = self._measure(metric, p)
        if reference:
            of_reference, resampled_reference = self._measure(metric, reference)
            values, resampled = values - of_reference, resampled - resampled_reference
        low, high = interval(resampled.mean(0))
        if self._users(metric, p) < 2:
            low = high = float("nan")
        return Figure(float(values.mean()), low, high, float(values.min()), float(values.max()))

    def compared(
        self,
        p: Sequence[Floats],
        reference: Sequence[Floats],
        names: Sequence[str] = COMPARED_METRICS,
    ) -> Compared:
        """Metrics of a predictor and their differences from a reference's."""
        return Compared(
            {name: self.figure(name, p) for name in names},
            {name: self.figure(name, p, reference) for name in names},
        )

    def _users(self, metric: str, p: Sequence[Floats]) -> int:
        """Users that a metric is measured on."""
        if metric != "uauc":
            return self.users
        return int(np.isfinite(user_aucs(self.label, p[0], self.user)).sum())

    def _measure(self, metric: str, p: Sequence[Floats]) -> tuple[Floats, Floats]:
        """Values ``(seeds,)`` and resampled ones ``(seeds, resamples)``; each is computed once."""
        for one in p:
            if (metric, id(one)) not in self._cache:  # the array is kept, so that its id stays its
                resampled = self.bootstrap(metric, self.label, one)
                self._cache[metric, id(one)] = (one, self.value(metric, one), resampled)
        cached = [self._cache[metric, id(one)] for one in p]
        return np.array([value for _, value, _ in cached]), np.array([r for _, _, r in cached])


@dataclass(frozen=True)
class Predictor:
    """Something that scores every test row, once for each seed.

    Args:
        kind: ``yardstick``, ``crm``, ``baseline``, ``llm``, ``cascade`` or ``control``.
        key: Identifies it within the table.
        name: In words.
        p: One ``(n,)`` array of probabilities for each seed; NaN where a row was not scored.
        llm_share: Share of rows that an LLM (or its stand-in) answers, mean over seeds.
        ms: Milliseconds for 1,000 rows, where known.
        tokens: Tokens that an LLM reads for 1,000 rows, where known.
    """

    kind: str
    key: str
    name: str
    p: Sequence[Floats]
    llm_share: float
    ms: float | None = None
    tokens: float | None = None


def predictor_rows(
    figures: Figures, predictors: Sequence[Predictor], reference: str
) -> tuple[PredictorRow, ...]:
    """The main table.

    Args:
        figures: Of all rows.
        predictors: In the order of the table. One that scored some of the rows is measured, and
            compared, on these.
        reference: Key of the predictor that the others are compared with.
    """
    against = next(one for one in predictors if one.key == reference)
    rows = []
    for one in predictors:
        scored = np.logical_and.reduce([np.isfinite(p) for p in one.p])
        part, p, base = figures, list(one.p), list(against.p[: len(one.p)])
        if not scored.all():
            part = figures.of(scored)
            p, base = [answer[scored] for answer in p], [answer[scored] for answer in base]
        measured = part.compared(p, base, TABLE_METRICS)
        rows.append(
            PredictorRow(
                kind=one.kind,
                key=one.key,
                name=one.name,
                rows=int(scored.sum()),
                seeds=len(p),
                llm_share=one.llm_share,
                ms=one.ms,
                tokens=one.tokens,
                metrics=measured.metrics,
                over_reference=measured.over_reference,
            )
        )
    return tuple(rows)
