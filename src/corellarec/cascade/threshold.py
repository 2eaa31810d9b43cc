"""From a budget to a threshold that holds it on later rows too.

The value of routing drifts: later rows have longer histories, come from other users, and from more
or fewer users with training rows. So the budget is held in each of several blocks of the validation
rows, not in their mean.
"""

import numpy as np
from numpy.typing import NDArray

from corellarec.base.metrics import Floats

TIME_BLOCKS = 5
MIN_BLOCK_SHARE = 0.1  # of all rows, for the rows of returning users, or of new ones, to be a block
ROUTE_NONE = float(np.finfo(np.float64).max)  # a threshold, and plain JSON where infinity is not
ROUTE_ALL = -ROUTE_NONE


def blocks(value: Floats, time: NDArray[np.int64], returning: NDArray[np.bool_]) -> list[Floats]:
    """Values in the blocks of rows that must each hold the budget.

    These are five parts of equally many rows, one after the other in time, and the rows of
    returning users and those of new users: a budget that both hold, every mix of them holds.

    Args:
        value: ``(n,)`` value of routing.
        time: ``(n,)`` times in any unit.
        returning: ``(n,)`` whether the user has training rows.
    """
    parts = np.array_split(value[np.argsort(time, kind="stable")], TIME_BLOCKS)
    kinds = (value[returning], value[~returning])
    return [*parts, *(kind for kind in kinds if len(kind) >= MIN_BLOCK_SHARE * len(value))]


def budget_needed(value: Floats, past: list[Floats]) -> Floats:
    """The smallest budget ``(n,)`` under which each value is routed.

    In a block of m rows it is the value's conformal rank, (1 + rows at or above it) / (m + 1): of
    rows drawn like the block's, a share of at most ``budget`` is routed in the mean, whatever
    their distribution. The largest of the blocks' ranks counts.
    """
    needed = np.zeros(len(value))
    for block in past:
        above = len(block) - np.searchsorted(np.sort(block), value, side="left")
        needed = np.maximum(needed, (1 + above) / (len(block) + 1))
    return needed


def threshold_of(budget: float, past: list[Floats]) -> float:
    """The value above which :func:`budget_needed` is within a budget."""
    if budget >= 1:
        return ROUTE_ALL
    threshold = ROUTE_ALL
    for block in past:
        wanted = int(budget * (len(block) + 1) + 1e-9)
        if wanted == 0:
            return ROUTE_NONE
        if wanted <= len(block):
            threshold = max(threshold, float(np.sort(block)[-wanted]))
    return threshold
