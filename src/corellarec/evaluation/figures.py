"""Quality of predictors over the same test rows, with paired intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corellarec.base import metrics
from corellarec.base.bootstrap import Bootstrap, interval
from corellarec.base.metrics import Floats, Labels

TABLE_METRICS = ("auc", "log_loss", "accuracy", "uauc")


@dataclass(frozen=True)
class Predictor:
    """Something that answers every test row, once for each seed.

    Args:
        kind: ``yardstick``, ``crm``, ``baseline``, ``llm``, ``cascade`` or ``control``.
        name: In words.
        p: One ``(n,)`` array of probabilities for each seed; NaN where a row was not scored.
        asked: Share of rows that a language model (or its stand-in) answered, for each seed.
        ms: Milliseconds for 1,000 rows, where known.
        tokens: Tokens that a language model reads for 1,000 rows, where known.
    """

    kind: str
    name: str
    p: Sequence[Floats]
    asked: Sequence[float]
    ms: float | None = None
    tokens: float | None = None


class Figures:
    """Measures probabilities on one set of rows.

    A figure is the mean over seeds, and its 95 % interval that of the mean over seeds with users
    resampled; differences are paired, by users and by seeds.

    Args:
        label: ``(n,)`` of 0 and 1.
        user: ``(n,)`` user numbers.
        bootstrap: Resamples of the rows' users.
    """

    def __init__(self, label: Labels, user: NDArray[np.int64], bootstrap: Bootstrap) -> None:
        self.label, self.user, self.bootstrap = label, user, bootstrap
        self._found: dict[tuple[str, int], tuple[Floats, float, Floats]] = {}

    def of(self, rows: NDArray[Any]) -> "Figures":
        """The same for some of the rows: an index or a mask."""
        return Figures(self.label[rows], self.user[rows], self.bootstrap.of(rows))

    def value(self, metric: str, p: Floats) -> float:
        """One of ``METRICS``, or ``uauc``."""
        if metric == "uauc":
            return metrics.uauc(self.label, p, self.user)
        return metrics.METRICS[metric](self.label, p)

    def figure(
        self, metric: str, p: Sequence[Floats], reference: Sequence[Floats] = ()
    ) -> dict[str, float]:
        """``value``, ``low`` and ``high`` of a metric, or of its difference from a reference.

        ``least`` and ``most`` are those of the single seeds. A reference with one array is that of
        every seed.
        """
        values, resampled = self._measure(metric, p)
        if reference:
            of_reference, resampled_reference = self._measure(metric, reference)
            values, resampled = values - of_reference, resampled - resampled_reference
        low, high = interval(resampled.mean(0))
        return {
            "value": float(values.mean()),
            "low": low,
            "high": high,
            "least": float(values.min()),
            "most": float(values.max()),
        }

    def _measure(self, metric: str, p: Sequence[Floats]) -> tuple[Floats, Floats]:
        """Values ``(seeds,)`` and resampled ones ``(seeds, resamples)``; each is found once."""
        for one in p:
            if (metric, id(one)) not in self._found:  # the array is kept, so that its id stays its
                resampled = self.bootstrap(metric, self.label, one)
                self._found[metric, id(one)] = (one, self.value(metric, one), resampled)
        found = [self._found[metric, id(one)] for one in p]
        return np.array([value for _, value, _ in found]), np.array([r for _, _, r in found])


def table(
    figures: Figures, predictors: Sequence[Predictor], reference: str
) -> list[dict[str, Any]]:
    """Every predictor's metrics, and its differences from the predictor named ``reference``.

    A predictor that scored some of the rows is measured, and compared, on these.
    """
    against = next(one for one in predictors if one.name == reference)
    found = []
    for one in predictors:
        scored = np.logical_and.reduce([np.isfinite(p) for p in one.p])
        here, p, base = figures, list(one.p), list(against.p[: len(one.p)])
        if not scored.all():
            here = figures.of(scored)
            p, base = [answer[scored] for answer in p], [answer[scored] for answer in base]
        row: dict[str, Any] = {
            "kind": one.kind,
            "name": one.name,
            "seeds": len(p),
            "rows": int(scored.sum()),
            "asked": float(np.mean(one.asked)),
            "ms": one.ms,
            "tokens": one.tokens,
        }
        for metric in TABLE_METRICS:
            row[metric] = here.figure(metric, p)
            row[f"{metric}_over"] = here.figure(metric, p, base)
        found.append(row)
    return found
