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


def calibration_error(label: Labels, p: Floats, bins: int = 15) -> float:
    """Expected calibration error over ``bins`` bins with equally many samples each.

    The mean over bins of ``|mean(p) - mean(label)|``, weighted by the bins' sizes.

    Source: Naeini et al. 2015, https://doi.org/10.1609/aaai.v29i1.9602
    """
    order = np.argsort(p, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    gaps = [abs(p[part].mean() - label[part].mean()) * len(part) for part in parts]
    return float(sum(gaps) / len(p))


METRICS: dict[str, Callable[[Labels, Floats], float]] = {
    "auc": auc,
    "log_loss": log_loss,
    "accuracy": accuracy,
    "calibration_error": calibration_error,
}


def resampled_users(user: NDArray[np.int64], resamples: int, seed: int) -> list[NDArray[np.int64]]:
    """Row indices of each bootstrap resample; users are drawn whole, with replacement.

    Rows of one user depend on each other, so resampling rows would give intervals too narrow.
    """
    generator = np.random.default_rng(seed)
    order = np.argsort(user, kind="stable")
    starts = np.unique(user[order], return_index=True)[1]
    groups = np.split(order, starts[1:])
    drawn = generator.integers(0, len(groups), (resamples, len(groups)))
    return [np.concatenate([groups[i] for i in draw]) for draw in drawn]


def interval(values: Floats, level: float = 0.95) -> tuple[float, float]:
    """The central interval that holds ``level`` of the values, NaN left out; NaN if all are."""
    tail = (1 - level) / 2
    found = values[~np.isnan(values)]
    low, high = np.quantile(found, [tail, 1 - tail]) if len(found) else (np.nan, np.nan)
    return float(low), float(high)
