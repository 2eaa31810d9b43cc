"""Whom to ask: a value for every sample, from what is known before asking.

A policy is a linear function of six features, so that it can be stored as numbers and applied to
one sample. The paper's rule, the CRM's entropy, is the one with a single weight.
"""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import RidgeCV

from corellarec.cascade.calibrate import LogisticMap
from corellarec.data.log import Log, Samples
from corellarec.metrics import Floats, entropy, sigmoid

FEATURES = (
    "logit",
    "absolute logit",
    "entropy",
    "log history length",
    "log item popularity",
    "share liked",
)
PENALTIES = np.logspace(-1, 4, 12)


@dataclass(frozen=True)
class Known:
    """What is known of samples before the language model is asked.

    Args:
        crm_logit: ``(n,)`` the CRM's raw logits.
        history_length: ``(n,)`` rows of history, as many as the CRM reads at most.
        item_count: ``(n,)`` training rows of the target item.
        liked_share: ``(n,)`` share of that history that the user liked, drawn to one half.
    """

    crm_logit: Floats
    history_length: Floats
    item_count: Floats
    liked_share: Floats

    def __getitem__(self, index: np.ndarray | slice) -> "Known":
        return Known(**{name: column[index] for name, column in vars(self).items()})

    def features(self, calibration: LogisticMap) -> Floats:
        """``(n, 6)`` floats, the columns of ``FEATURES``; ``calibration`` is the CRM's."""
        logit = calibration(self.crm_logit)
        return np.column_stack(
            [
                logit,
                np.abs(logit),
                entropy(sigmoid(logit)),
                np.log1p(self.history_length),
                np.log1p(self.item_count),
                self.liked_share,
            ]
        )


def known(log: Log, samples: Samples, crm_logit: Floats, history_length: int) -> Known:
    """Look up what the log knows of samples; ``history_length`` is the most rows to look back."""
    begin = torch.maximum(samples.begin, samples.end - history_length)
    liked = torch.cat([torch.zeros(1, dtype=torch.long), log.label.long().cumsum(0)])
    length = (samples.end - begin).double()
    share = ((liked[samples.end] - liked[begin]).double() + 0.5) / (length + 1)
    return Known(
        crm_logit=crm_logit,
        history_length=length.numpy(),
        item_count=log.item_train_rows[samples.item].double().numpy(),
        liked_share=share.numpy(),
    )


@dataclass(frozen=True)
class LinearValue:
    """``bias + weights . features``: the higher, the more it is worth to ask.

    Args:
        weights: One for each of ``FEATURES``.
        bias: Added to the weighted sum.
    """

    weights: tuple[float, ...]
    bias: float

    def __call__(self, features: Floats) -> Floats:
        """Value of each row of ``(n, 6)`` features."""
        return features @ np.array(self.weights) + self.bias


ENTROPY = LinearValue(tuple(float(name == "entropy") for name in FEATURES), 0.0)


def fit_gain(features: Floats, gain: Floats) -> LinearValue:
    """Ridge regression of the log loss (nats) that asking saves; the penalty is cross-validated.

    Args:
        features: ``(n, 6)``.
        gain: ``(n,)`` the CRM's loss minus the answer's.
    """
    mean, deviation = features.mean(0), features.std(0).clip(min=1e-9)
    ridge = RidgeCV(PENALTIES).fit((features - mean) / deviation, gain)
    weights = ridge.coef_ / deviation
    return LinearValue(tuple(weights.tolist()), float(ridge.intercept_ - weights @ mean))
