"""Logistic maps from logits to calibrated logits, fitted on validation data."""

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression

from corellarec.base.errors import DataError
from corellarec.base.metrics import Floats, Labels

PENALTY = 1e3  # inverse strength of the ridge penalty: weak, for identifiability only
LIMIT = 30.0  # a logit beyond says no more: 1 - 1e-13


def bounded(logits: Floats) -> Floats:
    """Logits held between -30 and 30, so that none outweighs all others in a fit."""
    return np.clip(logits, -LIMIT, LIMIT)


@dataclass(frozen=True)
class LogisticMap:
    """``logit = bias + weights . inputs``; one input is Platt scaling, two are a blend.

    Args:
        weights: One for each input; never negative where the input is a logit.
        bias: Added to the weighted sum.

    Source: Platt 1999, "Probabilistic outputs for support vector machines"
    """

    weights: tuple[float, ...]
    bias: float

    def __call__(self, *inputs: Floats) -> Floats:
        """Map ``len(weights)`` arrays to one of logits."""
        return self.bias + sum(w * bounded(x) for w, x in zip(self.weights, inputs, strict=True))  # pyright: ignore[reportReturnType]


def fit_logistic(label: Labels, *inputs: Floats, free: int = 0) -> LogisticMap:
    """Fit a map by maximum likelihood, weights held at zero or above.

    A model whose better answer is the opposite of what it says must not be turned round silently:
    an input that would get a negative weight is left out (weight 0), and the rest fitted again.

    Args:
        label: ``(n,)`` of 0 and 1, both present.
        inputs: Arrays of ``n`` numbers.
        free: So many of the last inputs may have weights of either sign.

    Raises:
        DataError: If the labels are all alike, or there are none.
    """
    if len(np.unique(label)) < 2:
        found = f"all {len(label)} are {int(label[0])}" if len(label) else "there are none"
        raise DataError(
            f"a calibration needs labels of both kinds, 0 and 1, but {found}: use more rows"
        )
    kept = list(range(len(inputs)))
    held = len(inputs) - free
    weights = np.zeros(len(inputs))
    while kept:
        model = LogisticRegression(C=PENALTY, max_iter=1000)
        model.fit(np.column_stack([bounded(inputs[i]) for i in kept]), label)
        weights[:] = 0
        weights[kept] = model.coef_[0]
        if weights[:held].min(initial=0.0) >= 0:
            return LogisticMap(tuple(weights.tolist()), float(np.ravel(model.intercept_)[0]))
        kept.remove(int(weights[:held].argmin()))
    rate = np.clip(label.mean(), 1e-6, 1 - 1e-6)
    return LogisticMap((0.0,) * len(inputs), float(np.log(rate / (1 - rate))))
