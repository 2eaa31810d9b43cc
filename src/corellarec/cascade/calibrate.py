"""Logistic maps from logits to calibrated logits, fitted on validation data."""

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression

from corellarec.metrics import Floats, Labels

PENALTY = 1e3  # inverse strength of the ridge penalty: weak, for identifiability only


@dataclass(frozen=True)
class LogisticMap:
    """``logit = bias + weights . inputs``; one input is Platt scaling, two are a blend.

    Args:
        weights: One for each input logit; never negative.
        bias: Added to the weighted sum.

    Source: Platt 1999, "Probabilistic outputs for support vector machines"
    """

    weights: tuple[float, ...]
    bias: float

    def __call__(self, *inputs: Floats) -> Floats:
        """Map ``len(weights)`` arrays of logits to one."""
        return self.bias + sum(w * x for w, x in zip(self.weights, inputs, strict=True))  # pyright: ignore[reportReturnType]


IDENTITY = LogisticMap((1.0,), 0.0)


def fit_logistic(label: Labels, *inputs: Floats) -> LogisticMap:
    """Fit a map by maximum likelihood, weights held at zero or above.

    A model whose better answer is the opposite of what it says must not be turned round silently:
    an input that would get a negative weight is left out (weight 0), and the rest fitted again.

    Args:
        label: ``(n,)`` of 0 and 1, both present.
        inputs: Arrays of ``n`` logits.
    """
    kept = list(range(len(inputs)))
    weights = np.zeros(len(inputs))
    while kept:
        model = LogisticRegression(C=PENALTY, max_iter=1000)
        model.fit(np.column_stack([inputs[i] for i in kept]), label)
        weights[:] = 0
        weights[kept] = model.coef_[0]
        if weights.min() >= 0:
            return LogisticMap(tuple(weights.tolist()), float(np.ravel(model.intercept_)[0]))
        kept.remove(int(weights.argmin()))
    rate = np.clip(label.mean(), 1e-6, 1 - 1e-6)
    return LogisticMap((0.0,) * len(inputs), float(np.log(rate / (1 - rate))))
