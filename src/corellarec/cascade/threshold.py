"""From a budget to a threshold that holds it on later rows too.

A sample's value drifts: later rows come from longer or shorter histories, of other users. So the
budget is held in each of several successive parts of the validation rows, not in their mean.
"""

import numpy as np

from corellarec.metrics import Floats

BLOCKS = 5
NOBODY = float(np.finfo(np.float64).max)  # a threshold, and plain JSON where infinity is not


def blocks(value: Floats, time: np.ndarray) -> list[Floats]:
    """Values in five parts of equally many rows, one after the other in time."""
    return np.array_split(value[np.argsort(time, kind="stable")], BLOCKS)


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
        routed = int(budget * (len(block) + 1) + 1e-9) - 1
        found = max(found, NOBODY if routed < 0 else float(np.sort(block)[-1 - routed]))
    return found
