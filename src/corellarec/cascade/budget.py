"""A budget of routed rows, over rows that arrive in many calls."""

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from corellarec.base.metrics import Floats

Mask = NDArray[np.bool_]
KEPT_ROWS = 1000  # unspent credit of more rows than these expires
ROUNDING = 1e-9  # a sum of shares this close to a whole number is one


class BudgetMeter:
    """Holds a budget over all rows that it sees: a token bucket, safe under threads.

    Every row adds ``budget`` to the credit, and a routed row takes 1. Of a call's rows above the
    threshold the most valuable are routed, as many as the credit allows. A call may spend all that
    its own rows add; what is left over stays for later calls, up to the credit of 1,000 rows and at
    least 1.

    The credit starts at a fraction from 0 to 1, a hash of the seed and the first row seen. So after
    any number of calls at most ``budget * rows + 1`` rows are routed, and over many processes that
    see few rows each, no more than ``budget * rows`` in the mean. The same calls in the same order
    route the same rows.

    Args:
        budget: Largest share of rows to route, 0 to 1; with 1 all rows above the threshold are.
        seed: Of the first credit.

    Raises:
        ValueError: If the budget is not from 0 to 1.

    Example:
        >>> meter = BudgetMeter(0.5)
        >>> above, value = np.array([True, True, False, True]), np.array([1.0, 3.0, 0.0, 2.0])
        >>> with meter.reserve(above, value, first_row="user 7, item 3") as routed:
        ...     routed.tolist()
        [False, True, False, True]
    """

    def __init__(self, budget: float, seed: int = 0) -> None:
        if not 0 <= budget <= 1:
            raise ValueError(f"a budget is a share from 0 to 1, not {budget}")
        self.budget, self.seed = budget, seed
        self._most_kept = max(1.0, KEPT_ROWS * budget)
        self._credit: float | None = None
        self._lock = Lock()

    @contextmanager
    def reserve(self, above: Mask, value: Floats, first_row: str) -> Iterator[Mask]:
        """Choose the rows of a call that are routed, and spend their credit.

        A call that raises inside the ``with`` block is not counted: its rows add nothing, and
        those it routed get their credit back.

        Args:
            above: ``(n,)`` whether a row is above the threshold.
            value: ``(n,)`` values of routing.
            first_row: Identifies the call's first row, such as its user and item.

        Yields:
            ``(n,)`` whether a row is routed.
        """
        with self._lock:
            if self._credit is None:
                self._credit = first_credit(self.seed, first_row)
            before = self._credit
            available = before + self.budget * len(above)
            routed = most_valuable(above, value, math.floor(available + ROUNDING))
            self._credit = min(available - int(routed.sum()), self._most_kept)
            change = self._credit - before
        try:
            yield routed
        except BaseException:
            with self._lock:
                self._credit = min(self._credit - change, self._most_kept)
            raise


def first_credit(seed: int, row: str) -> float:
    """A fraction from 0 to below 1, uniform over rows, and the same for the same row and seed."""
    digest = hashlib.blake2b(f"{seed} {row}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def most_allowed(budget: float, rows: int) -> int:
    """Rows that may be routed of so many, if there are no others: the budget's share, rounded up.

    Args:
        budget: Share of rows, 0 to 1.
        rows: How many there are.
    """
    return math.ceil(budget * rows - ROUNDING)


def most_valuable(above: Mask, value: Floats, count: int) -> Mask:
    """The ``count`` most valuable of some rows, or all of them if they are fewer.

    Args:
        above: ``(n,)`` the rows to choose from.
        value: ``(n,)`` the values of all; of equal ones the first are taken.
        count: Rows to choose at most; none if it is negative.
    """
    candidates = np.flatnonzero(above)
    mask = np.zeros(len(above), dtype=bool)
    mask[candidates[np.argsort(-value[candidates], kind="stable")[: max(count, 0)]]] = True
    return mask
