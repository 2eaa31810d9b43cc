"""Settings of the log: where it lies, and how it becomes labels and splits."""

from typing import Literal

from pydantic import model_validator

from corellarec.config.section import Count, Few, Positive, Rating, Section, Seed, Share, Weight

IMPLICIT = "implicit"  # in the place of a label's column


class TableConfig(Section):
    """Where a table of your own lies: files, or a query to a database."""

    files: str | tuple[str, ...] | None = None
    """Paths or globs of CSV, TSV, Parquet or JSON-lines files, ``.gz`` and ``.zst`` too; relative
    ones start from the current directory."""
    separator: str | None = None
    """Character between the values of delimited text; the default goes by the file's name."""
    header: tuple[str, ...] | None = None
    """Names of the columns of delimited text whose first line is a row already."""
    decimal: Literal[".", ","] = "."
    """Decimal separator of numbers in text: with ``,`` ``1.234,5`` is 1234.5, and 1.5 still 1.5."""
    encoding: str = "utf-8"
    """Encoding of delimited text."""
    database: str | None = None
    """DuckDB or SQLite file, or an address such as ``postgresql://...``; ``$NAME`` takes it from
    the environment."""
    query: str | None = None
    """SQL whose answer is the table."""

    @model_validator(mode="after")
    def _one_source(self) -> "TableConfig":
        if self.separator not in (None, "::") and not _is_separator(self.separator):
            raise ValueError(f"separator: one ASCII character, or ::, found {self.separator!r}")
        if (self.database is None) != (self.query is None):
            raise ValueError("database and query go together")
        if self.files and self.query:
            raise ValueError("files and query exclude each other")
        return self


def _is_separator(text: str) -> bool:
    return len(text) == 1 and text.isascii() and text not in '\r\n"'


class InteractionsConfig(TableConfig):
    """Your own log: which columns are what."""

    user: str
    """Column of the user's id."""
    item: str
    """Column of the item's id."""
    time: str
    """Column of the time: a number, a date, or text such as ``2024-05-01 12:30:00``."""
    time_format: str | None = None
    """Format of times that are other text, such as ``%d/%m/%Y %H:%M`` (day first)."""
    time_zone: str | None = None
    """Zone of times that name none, such as ``Europe/Berlin``; the default is UTC."""
    rating: str | None = None
    """Column of a rating; ``data.positive_rating`` makes it a label."""
    label: str | None = None
    """Column of the label: 1 or 0, true or false, yes or no ... Or ``implicit``: there is none, and
    every row is what the user did; ``data.negatives`` says what stands against it."""
    positive_values: tuple[str, ...] | None = None
    """... or of anything, and these values of it are the positive ones."""
    event: str | None = None
    """Column of the kind of event (``view``, ``buy``) of a log with ``label = "implicit"`` ..."""
    event_weights: dict[str, Weight] = {}
    """... and the weight of each kind in training, such as ``{view = 1, buy = 5}``; rows of a kind
    of weight 0 are left out."""
    split: str | None = None
    """Column of a given split: ``train``, ``validation`` (or ``valid``, ``val``, ``dev``) and
    ``test``."""

    @model_validator(mode="after")
    def _one_label(self) -> "InteractionsConfig":
        if (self.rating is None) == (self.label is None):
            raise ValueError("give one of rating and label")
        if self.positive_values and not self.label:
            raise ValueError("positive_values are values of the column that label names")
        if self.positive_values and self.is_implicit:
            raise ValueError(f"positive_values need a column, and label = {IMPLICIT!r} is none")
        if (self.event is None) != (not self.event_weights):
            raise ValueError("event and event_weights go together")
        if self.event and not self.is_implicit:
            raise ValueError(f"event goes with label = {IMPLICIT!r}: each kind is a positive")
        if self.event and not any(self.event_weights.values()):
            raise ValueError("event_weights: give one kind of event or more a weight above 0")
        if not (self.files or self.query):
            raise ValueError("give files, or database and query")
        return self

    @property
    def is_implicit(self) -> bool:
        """Whether there is neither a rating nor a label."""
        return self.label == IMPLICIT


class FeaturesConfig(TableConfig):
    """Features of users or items.

    Without a source of its own, they are columns of the interactions, whose earliest value counts.
    """

    id: str | None = None
    """Column of the id; the default has the name it has in the interactions."""
    categorical: tuple[str, ...] = ()
    """Columns of one token."""
    multi: dict[str, str] = {}
    """Columns of several tokens, and the text between two of them, such as ``|``."""
    numeric: tuple[str, ...] = ()
    """Columns of numbers; ``data.numbers`` says what becomes of them."""


class ItemsConfig(FeaturesConfig):
    """Features of items, and the text the language model reads."""

    title: str
    """Column of the title, or a template of columns such as ``{name} by {brand}``."""


class VocabularyConfig(Section):
    """How many ids and values have an embedding of their own: the most frequent in training.

    Those beyond share embeddings by a hash of their text.
    """

    ids: Count = 0
    """User ids, and item ids, with an embedding of their own; 0: all."""
    values: Positive = 50_000
    """Values of a categorical or multi-valued feature with an embedding of their own."""
    shared: Count = 1_000
    """Embeddings that the rest of a vocabulary shares; 0: the rest is out of vocabulary."""


class NegativesConfig(Section):
    """Negatives drawn for a log without: other items than those the user took."""

    per_positive: Few = 4
    """Negatives for each positive."""
    by: Literal["popularity", "uniform"] = "popularity"
    """How likely an item is drawn: in proportion to its rows until then, or as likely as any other
    that was there by then."""
    seed: Seed = 0
    """Seed of the draw."""


class DataConfig(Section):
    """Where the log comes from and how it becomes labels and splits."""

    fetch: Literal["ml-100k", "ml-1m", "nothing"] = "ml-100k"
    """What to fetch into the cache where neither ``path`` nor ``interactions`` is given."""
    path: str | None = None
    """Directory or zip in a known layout: MovieLens, Amazon reviews, RecBole's atomic files."""
    layout: Literal["auto", "movielens", "amazon", "recbole"] = "auto"
    """The layout of ``path``; ``auto`` goes by the names and columns of its files."""
    interactions: InteractionsConfig | None = None
    """Your own log."""
    items: ItemsConfig | None = None
    """Titles and features of its items."""
    users: FeaturesConfig | None = None
    """Features of its users."""
    time_unit: Literal["auto", "s", "ms", "us", "ns"] = "auto"
    """Unit of numeric times in your own log; ``auto`` goes by their size."""
    max_unpacked_mb: Positive = 256
    """MiB above which a compressed file is refused if it also unpacks to more than 100 times its
    size: such a file was made to fill the memory."""
    memory_limit_mb: Count = 0
    """MiB of memory that preparing the log may take: rows are then put into a temporary directory
    (``TMPDIR``) as they are read, and a log that needs more is refused; 0: no limit."""
    skip_bad_rows: Count = 0
    """Rows of the log that may be left out because they cannot be read."""
    positive_rating: Rating = 4.0
    """A rating at or above this is a positive label."""
    implicit: bool = False
    """Whether positive rows are what users did, and all others are left out: the log then has no
    negatives, and they are drawn. ``interactions.label = "implicit"`` implies it."""
    negatives: NegativesConfig = NegativesConfig()
    """The negatives of such a log."""
    min_user_rows: Count = 0
    """Users with fewer rows are left out ..."""
    min_item_rows: Count = 0
    """... and items with fewer, again and again until all that is left has enough (k-core)."""
    numbers: Literal["buckets", "standardized", "both"] = "buckets"
    """What becomes of numeric features: one of 32 buckets of equal size in training, the number
    itself with zero mean and unit variance over training, or both."""
    vocabulary: VocabularyConfig = VocabularyConfig()
    item_vectors: str | None = None
    """Parquet file of the columns ``item`` (id) and ``vector`` (as many numbers for each), such as
    text embeddings; `corellarec data title-vectors` makes one. A further feature for the CRM."""
    untitled: Literal["keep", "drop"] = "keep"
    """What happens to the rows of items without a title."""
    split: tuple[Share, Share, Share] = (0.8, 0.1, 0.1)
    """Shares of train, validation and test, cut by time over the whole log."""
    min_history: Count = 0
    """The first so many rows of each user are history only: neither trained on nor tested."""
    history: Literal["all", "positives"] = "all"
    """Which earlier rows of the user make the history; of a log without negatives the positives."""
    ties: Literal["ordered", "apart"] = "ordered"
    """Rows of one user at one time: ordered by item, or ``apart``, so that none is in another's
    history, as items shown together must be. In a log without negatives they are apart."""

    @model_validator(mode="after")
    def _is_whole(self) -> "DataConfig":
        if min(self.split) <= 0 or abs(sum(self.split) - 1) > 1e-9:
            raise ValueError(f"split: three positive shares that sum to 1, found {self.split}")
        if self.path and self.interactions:
            raise ValueError("path and interactions exclude each other")
        if self.interactions and not self.items:
            raise ValueError("interactions need items, with the title the language model reads")
        if (self.items or self.users) and not self.interactions:
            raise ValueError("items and users belong to interactions, which are not given")
        return self

    @property
    def is_implicit(self) -> bool:
        """Whether the log has no negatives."""
        return self.implicit or bool(self.interactions and self.interactions.is_implicit)
