"""Logistic maps from logits to calibrated logits, fitted on validation data."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.model_selection import GroupKFold

from corellarec.base.errors import DataError
from corellarec.base.metrics import Floats, Labels
from corellarec.base.numbers import Weight

PENALTY = 1e3  # inverse strength of the ridge penalty
CONSTANT = 1e-9  # an input with a smaller deviation carries no information
LIMIT = 30.0  # a logit beyond says no more: 1 - 1e-13
FOLDS = 5

Fold = tuple[NDArray[np.int64], NDArray[np.int64]]  # rows to fit on, rows held out


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

    weights: tuple[Weight, ...]
    bias: Weight

    def __call__(self, *inputs: Floats) -> Floats:
        """Map ``len(weights)`` arrays to one of logits."""
        return self.bias + sum(w * bounded(x) for w, x in zip(self.weights, inputs, strict=True))  # pyright: ignore[reportReturnType]


def fit_logistic(label: Labels, *inputs: Floats, free: int = 0) -> LogisticMap:
    """Fit a map by maximum likelihood under the constraint that weights are not negative.

    A model that is right only if its answer is inverted must not be inverted silently: its weight
    is 0. A weak ridge penalty, ``|weights|^2 / 2000`` beside the sum of log losses, makes the
    solution unique. L-BFGS-B works on standardized inputs and ends where no probability changes by
    more than about 1e-7.

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
    columns = np.column_stack([bounded(x) for x in inputs])
    mean, deviation = columns.mean(0), columns.std(0)
    deviation[deviation < CONSTANT] = 1.0
    scaled = (columns - mean) / deviation
    rows, ridge = len(label), 1 / (PENALTY * deviation**2)

    def objective(parameters: Floats) -> tuple[float, Floats]:
        """Mean penalized log loss of the scaled weights and the intercept, and its gradient."""
        weights = parameters[:-1]
        logit = scaled @ weights + parameters[-1]
        loss = np.logaddexp(0.0, np.where(label == 1, -logit, logit)).sum()
        residual = expit(logit) - label
        gradient = np.append(residual @ scaled + ridge * weights, residual.sum())
        return (loss + ridge @ weights**2 / 2) / rows, gradient / rows

    rate = label.mean()
    lower = [0.0] * (len(inputs) - free) + [None] * free
    solution = minimize(
        objective,
        np.append(np.zeros(len(inputs)), np.log(rate / (1 - rate))),
        jac=True,
        method="L-BFGS-B",
        bounds=[(low, None) for low in lower] + [(None, None)],
        options={"maxiter": 10_000, "maxfun": 20_000, "ftol": 0.0, "gtol": 1e-9},
    ).x
    weights = solution[:-1] / deviation
    return LogisticMap(tuple(weights.tolist()), float(solution[-1] - weights @ mean))


def user_folds(label: Labels, user: NDArray[np.int64]) -> list[Fold]:
    """Users in up to five parts; a part is left out where the rest has labels of one class only.

    Args:
        label: ``(n,)`` of 0 and 1.
        user: ``(n,)`` each row's user.
    """
    count = min(FOLDS, len(np.unique(user)))
    parts = GroupKFold(count).split(label, groups=user) if count > 1 else ()
    return [(fit, held) for fit, held in parts if label[fit].min() < label[fit].max()]
