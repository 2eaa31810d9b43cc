"""From a budget to a threshold: the value that this share of the validation rows exceeds.

Later rows drift. A budget that was set is a limit all the same: of rows above the threshold no more
are routed than it allows (:mod:`corellarec.cascade.budget`).
"""

import numpy as np

from corellarec.base.metrics import Floats

ROUTE_NONE = float(np.finfo(np.float64).max)  # a threshold, and plain JSON where infinity is not
ROUTE_ALL = -ROUTE_NONE


def budget_needed(value: Floats, past: Floats) -> Floats:
    """The smallest budget ``(n,)`` under which each value is routed.

    Among m past rows it is the value's conformal rank, (1 + rows at or above it) / (m + 1): of
    rows drawn like these, a share of at most ``budget`` is routed in the mean, whatever their
    distribution.
    """
    above = len(past) - np.searchsorted(np.sort(past), value, side="left")
    return (1 + above) / (len(past) + 1)


def threshold_of(budget: float, past: Floats) -> float:
    """The value above which :func:`budget_needed` is within a budget."""
    wanted = int(budget * (len(past) + 1) + 1e-9)
    if budget >= 1 or wanted > len(past):
        return ROUTE_ALL
    return ROUTE_NONE if wanted == 0 else float(np.sort(past)[-wanted])
