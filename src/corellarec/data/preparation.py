"""The facts of a prepared log: what it holds, where its features lie, what was left out."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from corellarec.base.artifacts import MANIFEST, read_json, read_manifest, writes_again
from corellarec.base.numbers import Finite, Positive
from corellarec.config import DataConfig, NegativesConfig
from corellarec.data.levels import MAX_DISTINCT

DRAWN = {"popularity": "popularity", "uniform": "equal chances"}


@dataclass(frozen=True)
class FeatureLayout:
    """Where one feature lies in the code matrix of its table.

    Args:
        name: Name of the feature.
        vocabulary: Number of codes, the out-of-vocabulary code 0 included.
        width: Columns it takes: 1, or the most values that one entity has.
    """

    name: str
    vocabulary: Positive
    width: Positive


@dataclass(frozen=True)
class ValueLayout:
    """Where a feature made of numbers lies in the value matrix of its table.

    Args:
        name: Name of the feature.
        width: Columns it takes: 1 for a number, the length of a vector.
    """

    name: str
    width: Positive


def _ascending(ratings: Sequence[float]) -> Sequence[float]:
    if any(a >= b for a, b in pairwise(ratings)):
        raise ValueError("the smallest ratings of the levels must ascend")
    return ratings


@dataclass(frozen=True)
class Features:
    """The features of users and of items: coded ones, and ones made of numbers.

    Args:
        user, item: The coded ones, the id first.
        user_values, item_values: Those made of numbers.
        ratings: Smallest rating of each level, see :func:`corellarec.data.levels.rating_levels`;
            empty where the log has labels alone.
    """

    user: Annotated[Sequence[FeatureLayout], Field(min_length=1)]
    item: Annotated[Sequence[FeatureLayout], Field(min_length=1)]
    user_values: Sequence[ValueLayout] = ()
    item_values: Sequence[ValueLayout] = ()
    ratings: Annotated[
        Sequence[Finite], Field(max_length=MAX_DISTINCT), AfterValidator(_ascending)
    ] = ()


@dataclass(frozen=True)
class SplitFacts:
    """One split.

    Args:
        rows: Its rows.
        positives: Rows with label 1.
        first, last: Its earliest and latest time.
        cold_user_rows: Rows whose user has no training row.
        cold_item_rows: Rows whose item has no training row.
    """

    rows: int
    positives: int
    first: datetime
    last: datetime
    cold_user_rows: int
    cold_item_rows: int


@dataclass(frozen=True)
class LeftOut:
    """Rows of the source that the prepared log lacks.

    Args:
        bad_rows: They could not be read, and ``data.skip_bad_rows`` allowed it.
        duplicate_rows: Another row has the same user, item and time.
        rows_of_untitled_items: ``data.untitled`` is ``drop``.
        rows_below_core: Their user or item had too few (``data.min_user_rows``,
            ``data.min_item_rows``).
        negative_rows: They are below ``data.positive_rating``, or of an event of weight 0, and the
            log is read without negatives.
    """

    bad_rows: int
    duplicate_rows: int
    rows_of_untitled_items: int
    rows_below_core: int
    negative_rows: int = 0


@dataclass(frozen=True)
class Preparation:
    """What a prepared log holds, and what it was made from.

    Args:
        rows: Rows of the three splits.
        history_only_rows: Rows that are in no split.
        users, items: How many there are.
        untitled_items: Items without a title.
        positives: Rows of the three splits with label 1.
        splits: Facts of ``train``, ``validation`` and ``test``.
        left_out: Rows of the source that are not in it.
        first_bad_row: File and line of the first row that could not be read, and why; or None.
        time_unit: Unit in which numeric times were read; None for dates.
        history: Which rows make histories.
        ties: Whether rows of one user and time are in each other's history.
        negatives: How rows with label 0 were drawn; None where the log has its own.
        features: Where the features lie in the matrices of codes and values.
        settings: The settings of the log.
        warnings: What can be used, but is probably not what was meant.
        seconds: Time to read and prepare the log, without writing it.
        peak_memory_mb: Most memory that the process held until then, in MiB.
        key: Hash of settings and source; None where the source is a server.
        up_to_date: Whether it was there already, and nothing was done.
    """

    rows: int
    history_only_rows: int
    users: int
    items: int
    untitled_items: int
    positives: int
    splits: Mapping[str, SplitFacts]
    left_out: LeftOut
    first_bad_row: str | None
    time_unit: str | None
    history: Literal["all", "positives"]
    features: Features
    settings: DataConfig
    warnings: tuple[str, ...]
    seconds: float
    peak_memory_mb: int
    key: str | None = None
    up_to_date: bool = False
    ties: Literal["ordered", "apart"] = "ordered"
    negatives: NegativesConfig | None = None

    @property
    def left_out_text(self) -> str:
        """What was left out and why, in one line; empty where nothing was."""
        counts = asdict(self.left_out)
        reasons = [f"{n:,} {reason.replace('_', ' ')}" for reason, n in counts.items() if n]
        first = f" (the first: {self.first_bad_row})" if self.first_bad_row else ""
        return ", ".join(reasons) + first

    @property
    def negatives_text(self) -> str:
        """How many negatives stand against a positive, and how they were drawn; or empty."""
        if self.negatives is None:
            return ""
        return (
            f"1 positive to {(self.rows - self.positives) / self.positives:.2g} drawn negatives "
            f"by {DRAWN[self.negatives.by]}, seed {self.negatives.seed}"
        )

    def summary(self) -> str:
        """What the log holds, as lines of text for a terminal."""
        lines = [
            ("rows", f"{self.rows:,}"),
            ("users", f"{self.users:,}"),
            ("items", f"{self.items:,}, of which {self.untitled_items:,} without a title"),
            ("positives", f"{self.positives:,} ({self.positives / self.rows:.1%})"),
        ]
        if self.negatives:
            lines.append(("negatives", self.negatives_text))
        for name, part in self.splits.items():
            cold = f"{part.cold_user_rows:,} of cold users, {part.cold_item_rows:,} of cold items"
            lines.append((name, f"{part.rows:,} rows; {cold}"))
            lines.append(("", f"{_iso(part.first)} to {_iso(part.last)}"))
        if self.history_only_rows:
            lines.append(("history only", f"{self.history_only_rows:,} rows"))
        lines.append(("left out", self.left_out_text or "nothing"))
        if self.up_to_date:
            lines.append(("cost", "nothing to do: already prepared from the same source"))
        else:
            lines.append(("cost", f"{self.seconds} s, {self.peak_memory_mb:,} MiB of memory"))
        return "\n".join(f"{name:13} {text}" for name, text in lines)


def read_preparation(directory: Path) -> Preparation:
    """The facts of a prepared log; checks its files.

    Raises:
        ArtifactError: If it is missing, incomplete or damaged, or another version wrote it.
    """
    read_manifest(directory)
    remedy = f"delete {directory}; {writes_again(directory)}"
    return read_json(directory / MANIFEST, Preparation, remedy=remedy)


def _iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
