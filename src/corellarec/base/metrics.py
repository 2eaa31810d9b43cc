"""Quality of predicted probabilities, with bootstrap intervals.

Probabilities are kept away from 0 and 1 by ``EPSILON`` before their logarithm is taken.
"""

from collections.abc import Callable

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


def calibration_bins(p: Floats, bins: int = 15) -> NDArray[np.int64]:
    """``(n,)`` the bin of each prediction, of equally many predictions; equal ones share a bin."""
    return np.searchsorted(np.sort(p), p) * bins // max(1, len(p))


def calibration_error(
    label: Labels, p: Floats, user: NDArray[np.int64] | None = None, bins: int = 15
) -> float:
    """Root mean square of ``mean(p) - mean(label)`` over bins, without what noise adds to it.

    Labels are noisy, so that bins differ from their predictions where the predictions are right,
    too, and the plain expected calibration error is never near zero. The square of each bin's gap,
    less the gap's variance, estimates the true square without bias; a sum below zero counts as 0.

    Args:
        label: ``(n,)`` of 0 and 1.
        p: ``(n,)`` probabilities.
        user: ``(n,)`` users, whose rows depend on each other; without it every row is on its own.
        bins: Of equally many rows each, by ``p``.

    Source: Kumar et al. 2019, "Verified uncertainty calibration", https://arxiv.org/abs/1909.10155
    (the debiased estimator of the squared error), with the variance over users.
    """
    place, bins = calibration_bins(p, bins), max(1, min(bins, len(p)))
    group = np.arange(len(p)) if user is None else np.unique(user, return_inverse=True)[1]
    pairs, pair = np.unique(group * bins + place, return_inverse=True)  # of a group and a bin
    of_pair = pairs % bins
    sums, counts = np.bincount(pair, p - label), np.bincount(pair)
    rows = np.bincount(place, minlength=bins)
    held = np.maximum(rows, 1)
    gap = np.bincount(of_pair, sums, bins) / held
    groups = np.bincount(of_pair, minlength=bins)
    spread = np.bincount(of_pair, (sums - gap[of_pair] * counts) ** 2, bins)
    variance = spread / held**2 * groups / np.maximum(groups - 1, 1)
    return float(np.sqrt(max(0.0, rows @ (gap**2 - variance) / len(p))))


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
