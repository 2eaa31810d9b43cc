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
from corellarec.metrics import Floats, entropy, losses, sigmoid

FEATURES = (
    "logit",
    "absolute logit",
    "entropy",
    "log history length",
    "log item popularity",
    "share liked",
)
PENALTIES = np.logspace(-1, 7, 17)


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
    liked = torch.cat([torch.zeros(1, dtype=torch.long), log.history_label.long().cumsum(0)])
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


def expected_gain(alone: Floats, answer: Floats, truth: Floats) -> Floats:
    """Log loss (nats) that ``answer`` is expected to save over ``alone`` where ``truth`` holds.

    All are probabilities ``(n,)``. With the calibrated blend of both models as ``truth`` this has
    the same mean as the saving on the labels, and a fraction of its variance: no coin is flipped.
    """
    ones = np.ones(len(truth), dtype=np.int8)
    yes = losses(ones, alone) - losses(ones, answer)
    no = losses(1 - ones, alone) - losses(1 - ones, answer)
    return truth * yes + (1 - truth) * no


def fit_gain(features: Floats, expected: Floats, saved: Floats) -> LinearValue:
    """Ridge regression of the log loss (nats) that asking saves; penalties are cross-validated.

    What the blend expects is regressed first. Then what it did not foresee is, whose mean is zero
    wherever the blend is calibrated, so that its penalty shrinks it to nothing unless the labels
    speak clearly.

    Args:
        features: ``(n, 6)``.
        expected: ``(n,)`` from :func:`expected_gain`.
        saved: ``(n,)`` the CRM's loss minus the answer's, on the labels.
    """
    mean, deviation = features.mean(0), features.std(0).clip(min=1e-9)
    scaled = (features - mean) / deviation
    weights, bias = np.zeros(len(FEATURES)), 0.0
    for target in (expected, saved - expected):
        ridge = RidgeCV(PENALTIES).fit(scaled, target)
        weights += ridge.coef_ / deviation
        bias += float(ridge.intercept_)
    return LinearValue(tuple(weights.tolist()), bias - float(weights @ mean))
