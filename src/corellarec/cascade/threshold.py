"""From a budget to a threshold that holds it on later rows too.

A sample's value drifts: later rows come from longer histories, of other users, and of more or fewer
users that training knew. So the budget is held in each of several blocks of the validation rows,
not in their mean.
"""

import numpy as np
from numpy.typing import NDArray

from corellarec.base.metrics import Floats

PARTS = 5
LEAST = 0.1  # share of the rows that makes a block of known, or of new users
NOBODY = float(np.finfo(np.float64).max)  # a threshold, and plain JSON where infinity is not


def blocks(value: Floats, time: NDArray[np.int64], returning: NDArray[np.bool_]) -> list[Floats]:
    """Values in the blocks of rows that must each hold the budget.

    These are five parts of equally many rows, one after the other in time, and the rows of users
    that training knew, and of those it did not: what both hold, every mix of them holds.

    Args:
        value: ``(n,)`` value of asking.
        time: ``(n,)`` times in any unit.
        returning: ``(n,)`` whether the user has training rows.
    """
    parts = np.array_split(value[np.argsort(time, kind="stable")], PARTS)
    kinds = (value[returning], value[~returning])
    return [*parts, *(kind for kind in kinds if len(kind) >= LEAST * len(value))]


def budget_needed(value: Floats, past: list[Floats]) -> Floats:
    """The smallest budget ``(n,)`` under which each value is routed.

    In a block of m rows it is the value's conformal rank, (1 + rows at or above it) / (m + 1): of
    rows that are drawn like the block's, no more than a share ``budget`` is routed in the mean,
    whatever their distribution. Of the blocks' ranks the largest counts.
    """
    needed = np.zeros(len(value))
    for block in past:
        above = len(block) - np.searchsorted(np.sort(block), value, side="left")
        needed = np.maximum(needed, (1 + above) / (len(block) + 1))
    return needed


def threshold_of(budget: float, past: list[Floats]) -> float:
    """The value above which :func:`budget_needed` is within a budget."""
    if budget >= 1:
        return -NOBODY
    found = -NOBODY
    for block in past:
        wanted = int(budget * (len(block) + 1) + 1e-9)
        if wanted == 0:
            return NOBODY
        if wanted <= len(block):
            found = max(found, float(np.sort(block)[-wanted]))
    return found
