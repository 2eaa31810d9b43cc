"""Which rows are routed first: a value for every row, from what is known before the LLM runs.

``entropy`` is the paper's rule: route where the calibrated CRM is least confident. ``gain`` is
learnt: the log loss that routing the row is expected to save.
"""

from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from sklearn.linear_model import Ridge, RidgeCV

from corellarec.base.calibrate import LogisticMap
from corellarec.base.metrics import Floats, entropy, losses, sigmoid
from corellarec.base.numbers import Weight
from corellarec.data.log import Log, Samples

Policy = Literal["gain", "entropy"]
POLICIES: tuple[Policy, ...] = ("gain", "entropy")
FEATURES = (
    "logit",
    "absolute logit",
    "entropy",
    "log history length",
    "log item popularity",
    "share liked",
)
PRODUCTS = tuple(combinations_with_replacement(range(len(FEATURES)), 2))
TERMS = len(FEATURES) + len(PRODUCTS)
PENALTIES = np.logspace(-1, 7, 17)
PENALTY_ROWS = 100_000  # rows that choose among them, at most


@dataclass(frozen=True)
class Known:
    """What is known of rows before the LLM runs.

    Args:
        crm_logit: ``(n,)`` the CRM's raw logits.
        history_length: ``(n,)`` rows of history, as many as the CRM reads at most.
        item_count: ``(n,)`` training rows of the target item.
        liked_share: ``(n,)`` share of that history that the user liked, smoothed toward one half
            (prior of one row).
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
    """What the log knows of samples.

    Args:
        log: The log.
        samples: ``n`` samples over it.
        crm_logit: ``(n,)`` the CRM's raw logits.
        history_length: Rows of history to look back at most.
    """
    begin = torch.maximum(samples.begin, samples.end - history_length)
    length = (samples.end - begin).double()
    liked = (log.liked_before[samples.end] - log.liked_before[begin]).double()
    share = (liked + 0.5) / (length + 1)
    return Known(
        crm_logit=crm_logit,
        history_length=length.numpy(),
        item_count=log.item_train_rows[samples.item].double().numpy(),
        liked_share=share.numpy(),
    )


OfFeatures = Annotated[
    tuple[Weight, ...], Field(min_length=len(FEATURES), max_length=len(FEATURES))
]


@dataclass(frozen=True)
class Gain:
    """Log loss (nats) that routing a row is expected to save: a polynomial of the second degree.

    Features are first clipped to their range on validation: a square extrapolates badly.

    Args:
        weights: ``(6 + 21,)`` of the features, and of the product of every two and their squares.
        bias: Added to the weighted sum.
        low: ``(6,)`` smallest value of each of ``FEATURES`` on validation.
        high: ``(6,)`` largest value of each.
    """

    weights: Annotated[tuple[Weight, ...], Field(min_length=TERMS, max_length=TERMS)]
    bias: Weight
    low: OfFeatures
    high: OfFeatures

    def __call__(self, features: Floats) -> Floats:
        """Expected gain ``(n,)`` of rows with ``(n, 6)`` features."""
        clipped = np.clip(features, self.low, self.high)
        columns = with_products(clipped).T
        # Term by term: a matrix product rounds a row differently in batches of different sizes.
        return self.bias + sum(w * x for w, x in zip(self.weights, columns, strict=True))  # pyright: ignore[reportReturnType]


def with_products(features: Floats) -> Floats:
    """``(n, 6 + 21)``: the features, then the product of every two, squares among them."""
    first, second = (list(side) for side in zip(*PRODUCTS, strict=True))
    return np.hstack([features, features[:, first] * features[:, second]])


def value(policy: Policy, features: Floats, gain: Gain) -> Floats:
    """Value ``(n,)`` of routing each row, in nats.

    Args:
        policy: Which rows are routed first.
        features: ``(n, 6)`` of :meth:`Known.features`.
        gain: What ``gain`` has learnt.
    """
    match policy:
        case "gain":
            return gain(features)
        case "entropy":
            return features[:, FEATURES.index("entropy")]


def expected_gain(alone: Floats, answer: Floats, truth: Floats) -> Floats:
    """Log loss (nats) that ``answer`` is expected to save over ``alone`` where ``truth`` holds.

    All are probabilities ``(n,)``. With the calibrated blend of both models as ``truth`` this has
    the same mean as the saving on the labels, without the variance of the labels.
    """
    ones = np.ones(len(truth), dtype=np.int8)
    yes = losses(ones, alone) - losses(ones, answer)
    no = losses(1 - ones, alone) - losses(1 - ones, answer)
    return truth * yes + (1 - truth) * no


def fit_gain(features: Floats, expected: Floats, saved: Floats) -> Gain:
    """Ridge regression of the log loss (nats) that routing saves; penalties are cross-validated.

    The saving that the blend expects is regressed first, then the residual of the observed saving.
    Its mean is zero wherever the blend is calibrated, so that its penalty shrinks it to nothing
    unless the labels show a clear departure. Of more than 100,000 rows, every n-th row chooses the
    penalties.

    Args:
        features: ``(n, 6)``.
        expected: ``(n,)`` from :func:`expected_gain`.
        saved: ``(n,)`` the CRM's loss minus the answer's, on the labels.
    """
    columns = with_products(features)
    mean, deviation = columns.mean(0), columns.std(0).clip(min=1e-9)
    scaled = (columns - mean) / deviation
    weights, bias = np.zeros(columns.shape[1]), 0.0
    step = -(-len(scaled) // PENALTY_ROWS)
    for target in (expected, saved - expected):
        ridge = RidgeCV(PENALTIES).fit(scaled[::step], target[::step])
        if step > 1:
            ridge = Ridge(step * np.float64(ridge.alpha_), solver="cholesky").fit(scaled, target)
        weights += ridge.coef_ / deviation
        bias += float(ridge.intercept_)
    return Gain(
        tuple(weights.tolist()),
        bias - float(weights @ mean),
        tuple(features.min(0).tolist()),
        tuple(features.max(0).tolist()),
    )
