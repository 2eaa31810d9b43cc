"""Confidence intervals by resampling users."""

from collections.abc import Iterator
from copy import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corellarec.base.metrics import Floats, Labels, calibration_bins, losses, user_aucs

BLOCK = 2**21  # numbers in a block of resamples: 16 MB of float64
MAX_KEPT = 2**28  # counts that are kept in memory, a byte each


def resample_blocks(resamples: int, users: int) -> Iterator[slice]:
    """Slices of the resamples such that a block of them by all users fits in memory.

    They hold a multiple of eight resamples, so that a matrix product in blocks equals the whole
    one bit by bit.
    """
    size = 8 * max(1, BLOCK // 8 // max(users, 1))
    return (slice(start, min(start + size, resamples)) for start in range(0, resamples, size))


class Bootstrap:
    """Metrics over resamples of users, who are drawn whole, with replacement.

    Rows of one user depend on each other, so resampling rows would give intervals too narrow.
    Every predictor is measured on the same resamples, so that differences are paired. Only the
    number of times each user is drawn matters, and rows are sorted once, not in every resample.
    These counts are kept, a byte each, up to 256 MB; beyond that (268,000 users at 1,000
    resamples) they are drawn again from the seed for every metric.

    Args:
        user: ``(n,)`` the rows' users.
        resamples: How many.
        seed: Of the draws.
    """

    def __init__(self, user: NDArray[np.int64], resamples: int, seed: int) -> None:
        users, self._place = np.unique(user, return_inverse=True)
        self._users, self._resamples, self._seed = len(users), resamples, seed
        self._kept: NDArray[np.uint8] | None = None
        if resamples * len(users) <= MAX_KEPT:
            self._kept = np.empty((resamples, len(users)), dtype=np.uint8)
            generator, even = np.random.default_rng(seed), np.full(len(users), 1 / len(users))
            for block in resample_blocks(resamples, len(users)):
                size = block.stop - block.start
                self._kept[block] = generator.multinomial(len(users), even, size)

    def _counts(self) -> Iterator[tuple[slice, Floats]]:
        """Blocks of resamples: which, and ``(resamples, users)`` how often each user is drawn."""
        generator = np.random.default_rng(self._seed)
        for block in resample_blocks(self._resamples, self._users):
            if self._kept is not None:
                yield block, self._kept[block].astype(np.float64)
                continue
            count = np.empty((block.stop - block.start, self._users))
            for row in count:  # ten times faster than multinomial, which the kept counts are from
                drawn = generator.integers(0, self._users, self._users)
                row[:] = np.bincount(drawn, minlength=self._users)
            yield block, count

    def of(self, rows: NDArray[Any]) -> "Bootstrap":
        """The same resamples of some of the rows: an index or a mask."""
        part = copy(self)
        part._place = self._place[rows]
        return part

    def __call__(self, metric: str, label: Labels, p: Floats) -> Floats:
        """``(resamples,)`` one of ``METRICS``, or ``uauc``; NaN where it is not defined."""
        match metric:
            case "auc":
                return self.auc(label, p)
            case "log_loss":
                return self.mean(losses(label, p))
            case "accuracy":
                return self.mean(((p >= 0.5) == (label == 1)).astype(np.float64))
            case "uauc":
                return self.uauc(label, p)
            case "calibration_error":
                return self.calibration_error(label, p)
        raise ValueError(f"no metric named {metric!r}")

    def mean(self, values: Floats) -> Floats:
        """Mean of a value of each row."""
        return _ratio(*self._totals(self._sums(values), self._rows()))

    def auc(self, label: Labels, p: Floats) -> Floats:
        """Area under the ROC curve, ties counted one half."""
        order = np.argsort(p, kind="stable")
        place, positive = self._place[order], label[order] == 1
        starts = np.flatnonzero(np.diff(p[order], prepend=np.nan) != 0)
        ties = len(starts) < len(p)

        def of_one(count: Floats) -> float:
            weight = count[place]
            of_positives, of_negatives = weight * positive, weight * ~positive
            if ties:
                of_positives = np.add.reduceat(of_positives, starts)
                of_negatives = np.add.reduceat(of_negatives, starts)
            below = np.cumsum(of_negatives) - of_negatives / 2
            pairs = of_positives.sum() * of_negatives.sum()
            return of_positives @ below / pairs if pairs else np.nan

        return np.array([of_one(count) for _, block in self._counts() for count in block])

    def uauc(self, label: Labels, p: Floats) -> Floats:
        """Mean AUC of the users who have both labels, each as often as it is drawn."""
        of_users = np.full(self._users, np.nan)
        of_users[np.unique(self._place)] = user_aucs(label, p, self._place)
        defined = np.isfinite(of_users)
        values = np.where(defined, of_users, 0.0)
        return _ratio(*self._totals(values, defined.astype(np.float64)))

    def calibration_error(self, label: Labels, p: Floats, bins: int = 15) -> Floats:
        """What the calibration error may truly be, so that their quantiles are an interval.

        Resampled gaps ``gap + noise`` have noise twice, so that their size is biased upward and
        their quantiles exclude the truth. Here, each resample's noise is added to gaps ``f gap`` of
        the factor ``f`` at which the result has the size that was measured; ``f = 0`` where noise
        alone is larger. This inverts a test: the smallest error of an interval is the one under
        which a size as large as the measured one is seldom.
        """
        place = calibration_bins(p, bins)
        parts = [np.flatnonzero(place == number) for number in np.unique(place)]
        share = np.array([len(part) for part in parts]) / len(p)
        gap = np.array([(p[part] - label[part]).mean() for part in parts])
        sums = [self.of(part)._sums(p[part] - label[part]) for part in parts]
        rows = [self.of(part)._rows() for part in parts]
        totals = self._totals(*sums, *rows)
        drawn, drawn_rows = np.array(totals[: len(parts)]).T, np.array(totals[len(parts) :]).T
        noise = np.where(drawn_rows > 0, drawn / np.maximum(drawn_rows, 1), gap) - gap
        size = share @ gap**2
        if size == 0:
            return np.zeros(len(noise))
        along, across = noise @ (share * gap), noise**2 @ share
        # size f^2 + 2 along f + across = size
        root = np.sqrt(np.maximum(0.0, along**2 + size * (size - across)))
        return np.maximum(0.0, root - along) / np.sqrt(size) * (root > 0)

    def _sums(self, values: Floats) -> Floats:
        """``(users,)`` sums of a value of each row."""
        return np.bincount(self._place, values, self._users).astype(np.float64)

    def _rows(self) -> Floats:
        """``(users,)`` rows of each."""
        return self._sums(np.ones(len(self._place)))

    def _totals(self, *values: Floats) -> list[Floats]:
        """For each value of the users its sum ``(resamples,)`` over those drawn."""
        totals = [np.empty(self._resamples) for _ in values]
        for block, count in self._counts():
            for total, value in zip(totals, values, strict=True):
                total[block] = count @ value
        return totals


def _ratio(above: Floats, below: Floats) -> Floats:
    """Of each resample; NaN where it drew none of the rows."""
    return np.divide(above, below, out=np.full(len(below), np.nan), where=below > 0)


def interval(values: Floats, level: float = 0.95) -> tuple[float, float]:
    """The central interval that holds ``level`` of the values, NaN left out; NaN if all are."""
    tail = (1 - level) / 2
    found = values[~np.isnan(values)]
    low, high = np.quantile(found, [tail, 1 - tail]) if len(found) else (np.nan, np.nan)
    return float(low), float(high)
