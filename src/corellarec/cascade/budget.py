"""A budget of LLM calls over rows."""

import numpy as np
from numpy.typing import NDArray

from corellarec.base.metrics import Floats

Mask = NDArray[np.bool_]


def most_valuable(above: Mask, value: Floats, count: int) -> Mask:
    """The ``count`` most valuable of some rows, or all of them if they are fewer.

    Args:
        above: ``(n,)`` the rows to choose from.
        value: ``(n,)`` the values of all; of equal ones the first are taken.
        count: Rows to choose at most.
    """
    candidates = np.flatnonzero(above)
    mask = np.zeros(len(above), dtype=bool)
    mask[candidates[np.argsort(-value[candidates], kind="stable")[: max(count, 0)]]] = True
    return mask
