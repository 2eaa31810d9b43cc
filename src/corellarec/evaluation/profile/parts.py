"""What a profile holds: frozen dataclasses."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Counted:
    """Some rows: what they have in common, how many there are, and how many are positive."""

    name: str
    rows: int
    positives: int

    @property
    def rate(self) -> float:
        """Share of rows that are positive; NaN where there are none."""
        return self.positives / self.rows if self.rows else float("nan")


@dataclass(frozen=True)
class SplitProfile:
    """A split: its rows, and how many of them are of users and items without training rows."""

    name: str
    rows: int
    positives: int
    first: str
    last: str
    users: int
    cold_users: float
    cold_items: float


@dataclass(frozen=True)
class Popularity:
    """How rows are spread over users or items.

    Args:
        entities: How many there are.
        gini: 0 where all have as many rows, near 1 where few have nearly all.
        share: Shares of the entities, the most frequent first.
        rows: The share of rows that they have.
        median: Rows of the median one.
        largest: Rows of the most frequent one.
    """

    entities: int
    gini: float
    share: tuple[float, ...]
    rows: tuple[float, ...]
    median: float
    largest: int


@dataclass(frozen=True)
class FeatureProfile:
    """A feature of users or items.

    Args:
        side: ``user`` or ``item``.
        name: Its name.
        kind: ``category``, ``list`` or ``number``.
        missing: Share of users or items without it.
        distinct: Values that there are.
        top: The most frequent values and their shares, or a number's smallest, median and largest.
    """

    side: str
    name: str
    kind: str
    missing: float
    distinct: int
    top: str


@dataclass(frozen=True)
class TextCost:
    """What the language model would read.

    Args:
        model: Its name.
        layout: ``stream`` or ``paper``.
        template: Of its text.
        title_tokens: Tokens of titles: how many titles have how many.
        tokens_per_row: In the configured layout, mean over a sample of rows of each split.
        tokens_per_second: The rate that times are computed with.
    """

    model: str
    layout: str
    template: str
    title_tokens: tuple[tuple[int, int], ...]
    tokens_per_row: Mapping[str, float]
    tokens_per_second: float


@dataclass(frozen=True)
class Profile:
    """What a log is like.

    Args:
        name: Of the log.
        rows, users, items, positives, untitled: Counts.
        unit: Of ``periods``: day, week or month.
        periods: Rows by time.
        cuts: First times of validation and test.
        splits: The three splits.
        ratings: Rows by rating, where there are ratings.
        segments: Rows by kind of user, of item, and the like.
        of_items, of_users: How rows are spread.
        histories: Users by length of their history, and rows by the history before them.
        features: The features of users and items.
        text: Tokens and cost; None where the tokenizer cannot be had, for the reason ``no_text``.
        no_text: That reason.
        warnings: As `data check` gives them.
    """

    name: str
    rows: int
    users: int
    items: int
    positives: int
    untitled: int
    unit: str
    periods: tuple[Counted, ...]
    cuts: tuple[str, ...]
    splits: tuple[SplitProfile, ...]
    ratings: tuple[Counted, ...]
    segments: Mapping[str, tuple[Counted, ...]]
    of_items: Popularity
    of_users: Popularity
    histories: tuple[tuple[str, int, int], ...]
    features: tuple[FeatureProfile, ...]
    text: TextCost | None
    no_text: str
    warnings: tuple[str, ...]
