"""Quality of predicted probabilities, with bootstrap intervals.

Probabilities are kept away from 0 and 1 by ``EPSILON`` before their logarithm is taken.
"""

from collections.abc import Callable
from copy import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score

EPSILON = 1e-7
Floats = NDArray[np.float64]
Labels = NDArray[np.int8]


def sigmoid(logits: Floats) -> Floats:
    """Probability of each logit."""
    return expit(logits)


def to_logit(p: Floats) -> Floats:
    """Logit of each probability, finite at 0 and 1."""
    return logit(np.clip(p, EPSILON, 1 - EPSILON))


def entropy(p: Floats) -> Floats:
    """Uncertainty of each prediction in nats, ``-p ln p - (1-p) ln(1-p)``: 0 to ln 2."""
    p = np.clip(p, EPSILON, 1 - EPSILON)
    return -p * np.log(p) - (1 - p) * np.log1p(-p)


def losses(label: Labels, p: Floats) -> Floats:
    """Binary cross-entropy of each sample in nats."""
    p = np.clip(p, EPSILON, 1 - EPSILON)
    return -np.where(label == 1, np.log(p), np.log1p(-p))


def log_loss(label: Labels, p: Floats) -> float:
    """Mean binary cross-entropy in nats."""
    return float(losses(label, p).mean())


def auc(label: Labels, p: Floats) -> float:
    """Area under the ROC curve; NaN where the labels are all alike."""
    return float(roc_auc_score(label, p)) if 0 < label.mean() < 1 else float("nan")


def accuracy(label: Labels, p: Floats) -> float:
    """Share of samples on the right side of 0.5."""
    return float(((p >= 0.5) == (label == 1)).mean())


def calibration_error(label: Labels, p: Floats, bins: int = 15) -> float:
    """Expected calibration error over ``bins`` bins with equally many samples each.

    The mean over bins of ``|mean(p) - mean(label)|``, weighted by the bins' sizes.

    Source: Naeini et al. 2015, https://doi.org/10.1609/aaai.v29i1.9602
    """
    order = np.argsort(p, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    gaps = [abs(p[part].mean() - label[part].mean()) * len(part) for part in parts]
    return float(sum(gaps) / len(p))


def user_aucs(label: Labels, p: Floats, user: NDArray[np.int64]) -> Floats:
    """AUC of each user's rows, users ascending; NaN for those whose labels are all alike.

    All users' rows are ranked in one sort; ties count one half.
    """
    place = np.unique(user, return_inverse=True)[1]
    order = np.lexsort((p, place))
    place, p, positive = place[order], p[order], label[order].astype(np.float64)
    users = int(place[-1]) + 1
    first = np.flatnonzero(np.diff(place, prepend=-1))  # of each user
    tied = np.cumsum((np.diff(p, prepend=np.inf) != 0) | (np.diff(place, prepend=-1) != 0)) - 1
    rank = np.arange(len(p)) - first[place] + 1.0
    mean_rank = (np.bincount(tied, rank) / np.bincount(tied))[tied]
    positives = np.bincount(place, positive, users)
    negatives = np.bincount(place, 1 - positive, users)
    above = np.bincount(place, mean_rank * positive, users) - positives * (positives + 1) / 2
    pairs = positives * negatives
    return np.divide(above, pairs, out=np.full(users, np.nan), where=pairs > 0)


def uauc(label: Labels, p: Floats, user: NDArray[np.int64]) -> float:
    """Mean AUC of the users who have both labels; NaN if there are none."""
    found = user_aucs(label, p, user)
    return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")


METRICS: dict[str, Callable[[Labels, Floats], float]] = {
    "auc": auc,
    "log_loss": log_loss,
    "accuracy": accuracy,
    "calibration_error": calibration_error,
}


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
