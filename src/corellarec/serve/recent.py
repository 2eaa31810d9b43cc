"""What the service answered lately: a point for each second, and how far rows have drifted."""

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from corellarec.base.metrics import Floats
from corellarec.cascade.policy import Known

SECONDS = 300
ROWS = 10_000  # in the reference, and in what is compared with it
BINS = 10
NAMES = ("CRM's probability", "history length", "training rows of the item")


@dataclass(frozen=True)
class Drift:
    """How far rows lately differ from the first ones after the start.

    Args:
        name: What is compared.
        psi: Population stability index; below .1 nothing has changed, from .25 on much has.
        before, now: Means.
    """

    name: str
    psi: float
    before: float
    now: float

    @property
    def alarm(self) -> bool:
        """Whether it is time to look."""
        return self.psi >= 0.25


class Recent:
    """Kept by the service's event loop, which alone uses it.

    Attributes:
        points: Rows answered, and rows that the LLM answered, in each of the last seconds.
    """

    def __init__(self) -> None:
        self.points: deque[tuple[int, int]] = deque(maxlen=SECONDS)
        self._rows = self._asked = 0
        self._first, self._last = np.zeros((2, ROWS, len(NAMES)))
        self._seen = 0  # rows since the start

    def add(self, p_crm: Floats, known: Known, asked: int) -> None:
        """Note answered rows, and how many of them the LLM answered."""
        self._rows += len(p_crm)
        self._asked += asked
        rows = np.column_stack([p_crm, known.history_length, known.item_count])[-ROWS:]
        place = self._seen + np.arange(len(rows))
        first = place < ROWS
        self._first[place[first]] = rows[first]
        self._last[place % ROWS] = rows
        self._seen += len(rows)

    def tick(self) -> None:
        """A second is over."""
        self.points.append((self._rows, self._asked))
        self._rows = self._asked = 0

    def clear(self) -> None:
        """Begin again: another model answers from now on."""
        self._seen = 0

    def drift(self) -> list[Drift]:
        """The last rows against the first; empty before there are as many of both."""
        if self._seen < 2 * ROWS:
            return []
        return [
            Drift(name, psi(before, now), float(before.mean()), float(now.mean()))
            for name, before, now in zip(NAMES, self._first.T, self._last.T, strict=True)
        ]


def psi(before: NDArray[np.float64], now: NDArray[np.float64]) -> float:
    """Population stability index over bins that hold equal shares of ``before``.

    Source: Yurdakul and Naranjo 2020, https://econpapers.repec.org/article/rskjourn5/7725371.htm
    """
    edges = np.unique(np.quantile(before, np.linspace(0, 1, BINS + 1)[1:-1]))
    counts = [np.bincount(np.searchsorted(edges, x), minlength=len(edges) + 1)
              for x in (before, now)]  # fmt: skip
    a, b = ((count + 0.5) / (count.sum() + 0.5 * len(count)) for count in counts)
    return float(((b - a) * np.log(b / a)).sum())
