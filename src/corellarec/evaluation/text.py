"""Figures as text, the same in the page, in Markdown and in the terminal."""

import math

from corellarec.evaluation.parts import Figure
from corellarec.evaluation.results import Evaluation

DASH = "–"


def number(value: float | None, digits: int = 4) -> str:
    """A figure; a dash where it is not known."""
    return DASH if value is None or math.isnan(value) else f"{value:.{digits}f}"


def signed(value: float, digits: int = 4) -> str:
    """A difference with its sign; a dash where it is not known."""
    return DASH if math.isnan(value) else f"{value:+.{digits}f}"


def percent(share: float, digits: int = 1) -> str:
    """A share; a dash where it is not known."""
    return DASH if math.isnan(share) else f"{100 * share:.{digits}f} %"


def count(value: float | None) -> str:
    """A count with thousands set apart; a dash where it is not known."""
    return DASH if value is None else f"{value:,.0f}"


def interval(figure: Figure, digits: int = 4) -> str:
    """The 95 % interval of a figure; a dash where it cannot be estimated."""
    if math.isnan(figure.low):
        return DASH
    return f"{figure.low:.{digits}f}-{figure.high:.{digits}f}"


def signed_interval(figure: Figure, digits: int = 4) -> str:
    """The 95 % interval of a difference; a dash where it cannot be estimated."""
    if math.isnan(figure.low):
        return DASH
    return f"{figure.low:+.{digits}f} to {figure.high:+.{digits}f}"


def is_nothing(gap: Figure) -> bool:
    """Whether two predictors cannot be told apart, in no resample either."""
    return gap.value == gap.low == gap.high == 0


def difference(figure: Figure) -> str:
    """A difference and its interval, for a sentence."""
    if is_nothing(figure):
        return "no difference"
    if math.isnan(figure.low):
        return f"{signed(figure.value)}, no interval from fewer than two users"
    return f"{signed(figure.value)}, 95 % interval {signed_interval(figure)}"


def verdict(figure: Figure, better: int) -> str:
    """A difference in words, with ``better`` 1 where more is better and -1 where less is."""
    if math.isnan(figure.low):
        return "not comparable with"
    if figure.low <= 0 <= figure.high:
        return "not significantly different from"
    return "better than" if figure.value * better > 0 else "worse than"


def rows_in_words(result: Evaluation) -> str:
    """Which rows were measured."""
    users = f"{result.users:,} user{'s' if result.users != 1 else ''}"
    split = result.data.splits["test"].rows if result.data else result.rows
    drawn = f": {result.data.negatives}" if result.data and result.data.negatives else ""
    if result.rows == split:
        return f"{result.rows:,} test rows of {users}{drawn}"
    return f"{result.rows:,} random test rows (of {split:,}) of {users}{drawn}"


def step_title(name: str) -> str:
    """The name of a training step in words.

    Example:
        >>> step_title("stage1")
        'stage 1'
    """
    kind = name.rstrip("0123456789")
    return f"{kind} {name.removeprefix(kind)}"
