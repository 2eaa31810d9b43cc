"""Confidence intervals by resampling users."""

from copy import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corellarec.base.metrics import Floats, Labels, losses, user_aucs


class Bootstrap:
    """Metrics over resamples of users, who are drawn whole, with replacement.

    Rows of one user depend on each other, so resampling rows would give intervals too narrow.
    Every predictor is measured on the same resamples, so that differences are paired. How often
    each user is drawn is all that is kept, and rows are sorted once, not in every resample.

    Args:
        user: ``(n,)`` the rows' users.
        resamples: How many.
        seed: Of the draws.
    """

    def __init__(self, user: NDArray[np.int64], resamples: int, seed: int) -> None:
        users, self._place = np.unique(user, return_inverse=True)
        even = np.full(len(users), 1 / len(users))
        drawn = np.random.default_rng(seed).multinomial(len(users), even, resamples)
        self._count = drawn.astype(np.float64)

    def of(self, rows: NDArray[Any]) -> "Bootstrap":
        """The same resamples of some of the rows: an index or a mask."""
        part = copy(self)
        part._place = self._place[rows]
        return part

    def __call__(self, metric: str, label: Labels, p: Floats) -> Floats:
        """``(resamples,)`` one of ``METRICS``, or ``uauc``; NaN where it is not defined."""
        match metric:
            case "auc":
                return self.auc(label, p)
            case "log_loss":
                return self.mean(losses(label, p))
            case "accuracy":
                return self.mean(((p >= 0.5) == (label == 1)).astype(np.float64))
            case "uauc":
                return self.uauc(label, p)
            case "calibration_error":
                return self.calibration_error(label, p)
        raise ValueError(f"no metric named {metric!r}")

    def mean(self, values: Floats) -> Floats:
        """Mean of a value of each row."""
        return self._ratio(self._sums(values), self._sums(np.ones(len(values))))

    def auc(self, label: Labels, p: Floats) -> Floats:
        """Area under the ROC curve, ties counted one half."""
        order = np.argsort(p, kind="stable")
        place, positive = self._place[order], label[order] == 1
        starts = np.flatnonzero(np.diff(p[order], prepend=np.nan) != 0)
        ties = len(starts) < len(p)
        found = np.empty(len(self._count))
        for number, count in enumerate(self._count):
            weight = count[place]
            of_positives, of_negatives = weight * positive, weight * ~positive
            if ties:
                of_positives = np.add.reduceat(of_positives, starts)
                of_negatives = np.add.reduceat(of_negatives, starts)
            below = np.cumsum(of_negatives) - of_negatives / 2
            pairs = of_positives.sum() * of_negatives.sum()
            found[number] = of_positives @ below / pairs if pairs else np.nan
        return found

    def uauc(self, label: Labels, p: Floats) -> Floats:
        """Mean AUC of the users who have both labels, each as often as it is drawn."""
        found = np.full(self._count.shape[1], np.nan)
        found[np.unique(self._place)] = user_aucs(label, p, self._place)
        defined = np.isfinite(found)
        return self._ratio(np.where(defined, found, 0.0), defined.astype(np.float64))

    def calibration_error(self, label: Labels, p: Floats, bins: int = 15) -> Floats:
        """Expected calibration error, over the bins that all rows together have."""
        parts = np.array_split(np.argsort(p, kind="stable"), bins)
        gaps = np.zeros(len(self._count))
        for part in parts:
            gap = self.of(part)._sums(p[part] - label[part])
            gaps += np.abs(self._count @ gap)
        return self._share(gaps, self._sums(np.ones(len(p))))

    def _sums(self, values: Floats) -> Floats:
        return np.bincount(self._place, values, self._count.shape[1]).astype(np.float64)

    def _ratio(self, above: Floats, below: Floats) -> Floats:
        return self._share(self._count @ above, below)

    def _share(self, above: Floats, below: Floats) -> Floats:
        """Of each resample; NaN where it drew none of the rows."""
        total = self._count @ below
        return np.divide(above, total, out=np.full(len(total), np.nan), where=total > 0)


def interval(values: Floats, level: float = 0.95) -> tuple[float, float]:
    """The central interval that holds ``level`` of the values, NaN left out; NaN if all are."""
    tail = (1 - level) / 2
    found = values[~np.isnan(values)]
    low, high = np.quantile(found, [tail, 1 - tail]) if len(found) else (np.nan, np.nan)
    return float(low), float(high)
