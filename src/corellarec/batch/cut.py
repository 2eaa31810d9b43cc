"""Which rows of a job are routed: the most valuable ones, found without holding them in memory."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from corellarec.base.metrics import Floats
from corellarec.base.numbers import Count
from corellarec.cascade.budget import ROUNDING

Numbers = NDArray[np.uint64]
Word = Annotated[int, Field(ge=0, lt=2**64)]
DIGIT = 16  # bits of a number that one pass over all rows finds


@dataclass(frozen=True)
class Cut:
    """The last row that is routed, of all rows ordered by value, then by key.

    Args:
        value: Its value, by :func:`ordered`.
        key: Its key.
        rows: Rows of the job.
        above: Rows above the router's threshold.
        routed: Rows that are routed.
    """

    value: Word
    key: Word
    rows: Count
    above: Count
    routed: Count

    def routes(self, value: Numbers, key: Numbers) -> NDArray[np.bool_]:
        """``(n,)`` whether rows above the threshold are routed."""
        if not self.routed:
            return np.zeros(len(value), bool)
        mine, its = np.uint64(self.value), np.uint64(self.key)
        return (value > mine) | ((value == mine) & (key >= its))


def ordered(values: Floats) -> Numbers:
    """Floats as integers in the same order.

    Example:
        >>> bool(np.all(np.diff(ordered(np.array([-2.0, -1.0, 0.0, 1.0])).astype(float)) > 0))
        True
    """
    bits = (values + 0.0).view(np.uint64)  # -0.0 becomes 0.0
    sign = np.uint64(1 << 63)
    return np.where(bits & sign, ~bits, bits | sign)


def find_cut(files: Sequence[Path], rows: int, allowed: int) -> Cut:
    """The cut that routes the ``allowed`` most valuable rows, or all if they are fewer.

    Args:
        files: Parquet files of the rows above the threshold: ``value`` and ``key``, both uint64;
            no two rows have the same key.
        rows: Rows of the job.
        allowed: Rows that may be routed.
    """
    tables = [pl.scan_parquet(file, glob=False) for file in files]
    above = sum(table.select(pl.len()).collect().item() for table in tables)
    count = min(allowed, above)
    if count == above or not count:
        return Cut(0, 0, rows, above, count)

    def values() -> Iterable[Numbers]:
        return (table.select("value").collect()["value"].to_numpy() for table in tables)

    value, equal = _largest(values, count)

    def keys() -> Iterable[Numbers]:
        for table in tables:
            found = table.filter(pl.col("value") == pl.lit(value, pl.UInt64))
            yield found.select("key").collect()["key"].to_numpy()

    return Cut(value, _largest(keys, equal)[0], rows, above, count)


def _largest(columns: Callable[[], Iterable[Numbers]], count: int) -> tuple[int, int]:
    """The ``count``-th largest of all numbers, and how many equal to it are among the largest."""
    prefix, wanted = 0, (1 << DIGIT) - 1
    for shift in range(64 - DIGIT, -1, -DIGIT):
        histogram = np.zeros(wanted + 1, np.int64)
        for column in columns():
            digits = column >> np.uint64(shift)
            if prefix or shift < 64 - DIGIT:
                digits = digits[digits >> np.uint64(DIGIT) == np.uint64(prefix)]
            digits = (digits & np.uint64(wanted)).astype(np.int64)
            histogram += np.bincount(digits, minlength=wanted + 1)
        at_least = histogram[::-1].cumsum()
        place = int(np.searchsorted(at_least, count))
        digit = wanted - place
        count -= int(at_least[place] - histogram[digit])
        prefix = prefix << DIGIT | digit
    return prefix, count


def most_routed(limit: float, rows: int) -> int:
    """Rows of a job that may be routed: the budget's share of all of them, rounded down."""
    return math.floor(limit * rows + ROUNDING)
