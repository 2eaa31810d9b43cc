"""Which column is what, by its name, else by what it holds."""

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Literal

import numpy as np
import polars as pl

from corellarec.data.row_files import plain_number
from corellarec.data.sources.features import MISSING, number
from corellarec.data.times import DAY_OR_MONTH_FIRST, TIME_FORMATS, UNITS, fitting_formats

# What columns are called, best first; compared in lower case without anything but letters.
NAMES = {
    "user": ("userid", "user", "uid", "reviewerid", "customerid", "memberid", "visitorid",
             "accountid", "customer", "member", "sessionid", "username", "email"),
    "item": ("itemid", "item", "iid", "productid", "asin", "movieid", "bookid", "articleid",
             "songid", "trackid", "videoid", "newsid", "adid", "isbn", "sku", "product", "movie",
             "lineitemsku", "trackuri", "spotifytrackuri"),
    "rating": ("rating", "stars", "score", "overall", "bookrating", "userrating"),
    "label": ("label", "click", "clicked", "isclick", "liked", "like", "purchased", "target"),
    "time": ("timestamp", "time", "datetime", "date", "createdat", "eventtime", "ts",
             "unixreviewtime", "ratedat", "day"),
    "split": ("split", "fold", "subset"),
    "title": ("title", "name", "itemname", "productname", "movietitle", "booktitle", "headline",
              "itemtitle", "description"),
}  # fmt: skip
# Where no name is one of these; compared in lower case.
PATTERNS = {
    "user": r"^(user|member|customer|client|visitor|reviewer|reader|buyer|account|subscriber"
            r"|session)s?[\W_]*(id|number|no|nr|code|key|name|hash)?$",
    "item": r"^(item|product|movie|film|imdb|tmdb|book|article|song|track|video|news|game|recipe"
            r"|asin|isbn|sku|artist|album)s?[\W_]*(id|number|no|nr|code|key|\d+)?$",
    "rating": r"(^|[\W_])(rating|stars|score)$",
    "label": r"^(is|was|has)?[\W_]*(clicked|bought|purchased|liked|watched|converted|ordered)$",
    "time": r"(timestamp|datetime|[\W_]time|[\W_]date|[\W_]at)$",
    "title": r"(title|[\W_]name)$",
}  # fmt: skip
EVENT = r"^(event|action|interaction|behaviou?r|activity)s?[\W_]*(type|name|kind)?$|^type$"
# Weights of kinds of events, by their names; 1 is any other.
EVENT_WEIGHTS = {
    r"buy|bought|purchase|order|transaction|convert": 5.0,
    r"cart|basket|wish|save": 3.0,
}
MOST_EVENTS = 20
NO_RATING = r"quantity|qty|count|amount|price|number|year|month|age|size|id$"
RATING_VALUES = 21  # distinct ones at most
EARLIEST, LATEST = 315_532_800, 4_102_444_800  # seconds: 1980 and 2100
FEW = 0.5  # distinct values per row, above which a column of text is no category
FEW_VALUES = 20  # distinct values that any column may have and be a category
LABELS = {"0", "1", "0.0", "1.0", "true", "false", "yes", "no"}


def noun(name: str) -> str:
    """What the name of the items' file says they are: ``movies``, ``books``, or ``items``."""
    if re.search("movie|film", name.lower()):
        return "movies"
    return "books" if "book" in name.lower() else "items"


def by_name(columns: Iterable[str], role: str) -> str | None:
    """The column with a role's name."""
    columns = list(columns)
    plain = {re.sub(r"[^a-z]", "", column.lower()): column for column in columns}
    if found := next((plain[name] for name in NAMES[role] if name in plain), None):
        return found
    pattern = PATTERNS.get(role)
    fits = [c for c in columns if pattern and re.search(pattern, c.lower())]
    return fits[0] if fits else None


def time_column(rows: pl.DataFrame, columns: Iterable[str]) -> str | None:
    """The column that holds times of the years 1980 to 2100, those nearest to each other."""
    spreads = {name: spread for name in columns if (spread := _time_spread(rows[name])) is not None}
    return min(spreads, key=lambda name: spreads[name]) if spreads else None


def _time_spread(column: pl.Series) -> float | None:
    """How far times are from each other, relative to their size; None if they are none."""
    if column.dtype in (pl.Date, pl.Datetime):
        return 0.0
    known = column.drop_nulls()
    numbers = numbers_of(known, ".")
    if len(known) and not numbers.null_count():
        for factor in (unit / UNITS["s"] for unit in UNITS.values()):
            seconds = numbers.to_numpy() * factor
            low, high = np.quantile(seconds, [0.01, 0.99])
            if low >= EARLIEST and high <= LATEST:
                return float((high - low) / high)
        return None
    if column.dtype == pl.String and fitting_formats(known, (*TIME_FORMATS, *DAY_OR_MONTH_FIRST)):
        return 0.0
    return None


def time_format(column: pl.Series) -> tuple[str | None, bool]:
    """The format of text with day or month first, else None; whether both orders fit."""
    if column.dtype != pl.String or fitting_formats(column, TIME_FORMATS):
        return None, False
    fits = fitting_formats(column, DAY_OR_MONTH_FIRST)
    return (fits[0], any(fit[1] != fits[0][1] for fit in fits)) if fits else (None, False)


def label_columns(rows: pl.DataFrame, columns: Iterable[str]) -> list[str]:
    """Columns of 0 and 1, true and false, or yes and no."""
    return [name for name in columns if is_label(rows[name])]


def is_label(column: pl.Series) -> bool:
    """Whether a column holds labels and nothing else."""
    if column.dtype == pl.Boolean:
        return True
    if column.dtype.is_nested() or column.dtype in (pl.Binary, pl.Object, pl.Duration):
        return False
    text = column.drop_nulls().cast(pl.String).str.strip_chars().str.to_lowercase()
    return bool(len(text)) and text.is_in(list(LABELS)).all()


def event_column(rows: pl.DataFrame, columns: Iterable[str]) -> str | None:
    """The column of the kind of event, by its name and the few words it holds."""
    for name in sorted(columns):
        words = rows[name].dtype == pl.String and 2 <= rows[name].n_unique() <= MOST_EVENTS
        if words and re.search(EVENT, name.lower()):
            return name
    return None


def event_weights(column: pl.Series) -> dict[str, float]:
    """A weight in training for each kind of event, the most frequent first."""
    kinds = column.drop_nulls().str.strip_chars().value_counts(sort=True)[column.name]
    return {
        kind: next((w for words, w in EVENT_WEIGHTS.items() if re.search(words, kind.lower())), 1.0)
        for kind in kinds
    }


def rating_columns(rows: pl.DataFrame, columns: Iterable[str], decimal: str) -> list[str]:
    """Columns whose numbers are a scale such as 1 to 5, 0.5 to 5, or 0 to 10.

    Where there are none, those whose numbers are a scale without its lowest steps.
    """
    whole, upper = [], []
    for name in columns:
        numbers = numbers_of(rows[name].drop_nulls(), decimal)
        if re.search(NO_RATING, name.lower()) or not len(numbers) or numbers.null_count():
            continue
        steps = numbers.unique().sort()
        if steps[-1] in (3, 4, 5, 6, 7, 10, 20, 100) and 3 <= len(steps) <= RATING_VALUES:
            if steps[0] in (0, 0.5, 1):
                whole.append(name)
            elif 0 < steps[0] <= 3:
                upper.append(name)
    return whole or upper


def numbers_of(column: pl.Series, decimal: str) -> pl.Series:
    """The numbers of a column, null where there is none."""
    if not (column.dtype.is_numeric() or column.dtype == pl.String):
        return pl.Series([None] * len(column), dtype=pl.Float64)
    if column.dtype.is_numeric():
        return column.cast(pl.Float64)
    number = plain_number(pl.col("x").str.strip_chars(), decimal).cast(pl.Float64, strict=False)
    return column.to_frame("x").select(number).to_series()


def has_words(column: pl.Series) -> bool:
    """Whether most values have two letters in a row, which a number such as #1001 has not."""
    text = column.drop_nulls()
    if text.dtype not in (pl.String, pl.Categorical, pl.Enum) or not len(text):
        return False
    return float(text.cast(pl.String).str.contains(r"\pL{2}").mean()) > FEW  # pyright: ignore[reportArgumentType]


def differing(rows: pl.DataFrame, item: str) -> list[str]:
    """Columns of a log that are not about the item: one value, or several of most items."""
    again = rows.filter(pl.col(item).is_duplicated())
    flat = [name for name in rows.columns if not rows.schema[name].is_nested() and name != item]
    if again.is_empty():
        return []
    values = again.group_by(item).agg(pl.col(name).drop_nulls().n_unique() for name in flat)
    return [
        name
        for name in flat
        if rows[name].drop_nulls().n_unique() <= 1 or (values[name] > 1).mean() > FEW  # pyright: ignore[reportOperatorIssue]
    ]


def title_column(rows: pl.DataFrame, columns: Iterable[str]) -> str | None:
    """The first column of text that nearly always differs and often has several words."""
    for name in columns:
        text = rows[name].drop_nulls()
        if text.dtype != pl.String or not len(text) or fitting_formats(text, TIME_FORMATS):
            continue
        words = text.str.contains(r"\pL{2}.*\s.*\pL{2}").mean()
        listed = text.str.contains("://|[|]").mean()
        if float(words) > 0.3 > float(listed) and text.n_unique() > len(text) / 2:  # pyright: ignore[reportArgumentType]
            return name
    return None


def id_columns(rows: pl.DataFrame, columns: Iterable[str]) -> list[str]:
    """Columns that may hold ids: whole numbers or words, of two kinds at least."""
    found = []
    for name in columns:
        known = rows[name].drop_nulls()
        text = known.dtype in (pl.String, pl.Categorical, pl.Enum)
        if not (text or known.dtype.is_integer()) or known.n_unique() < 2:
            continue
        if not text or not known.cast(pl.String).str.contains(r"\s|^-?\d+[.,]\d+$").any():
            found.append(name)
    return found


def overlap(ids: pl.Series, others: pl.Series) -> float:
    """The share of distinct ids that are among others, of what both begin with."""
    distinct = ids.drop_nulls().cast(pl.String).unique()
    return float(distinct.is_in(others.cast(pl.String).implode()).mean() or 0)  # pyright: ignore[reportArgumentType]


def key_column(
    rows: pl.DataFrame, columns: Sequence[str], ids: pl.Series
) -> tuple[str | None, float]:
    """The column of a table that holds each of these ids once, and the share it holds."""
    shares = {
        name: overlap(ids, rows[name])
        for name in id_columns(rows, columns)
        if rows[name].n_unique() == rows.height
    }
    best = max(shares, key=lambda name: shares[name], default=None)
    return (best, shares[best]) if best and shares[best] > 0 else (None, 0.0)


def item_by_title(rows: pl.DataFrame, columns: Iterable[str], title: str) -> str | None:
    """The column of ids each of which always has the same title."""
    fits = [
        name
        for name in columns
        if rows.group_by(name).agg(pl.col(title).n_unique()).get_column(title).max() == 1
        and rows[name].n_unique() < rows.height
    ]
    return fits[0] if fits else None


def user_column(rows: pl.DataFrame, columns: Collection[str]) -> str | None:
    """The column of most ids that come again."""
    again = [name for name in columns if rows[name].n_unique() <= rows.height / 2]
    return max(again, key=lambda name: rows[name].n_unique(), default=None)


def feature_kind(
    column: pl.Series, decimal: str
) -> tuple[Literal["categorical", "multi", "numeric"] | None, str | None]:
    """What feature a column's known values make, if any; and the separator of several tokens."""
    kind = column.dtype
    if isinstance(kind, pl.List | pl.Array):
        tokens = not (kind.inner.is_float() or kind.inner.is_nested())
        return ("multi", "|") if tokens else (None, None)
    if kind.is_nested() or kind in (pl.Binary, pl.Duration, pl.Object) or not len(column):
        return None, None
    text = column.cast(pl.String, strict=False).drop_nulls()
    if not len(text):
        return None, None
    if separator := _separator(text):
        return "multi", separator
    distinct = text.n_unique()
    if distinct == len(text) > FEW_VALUES and text.str.contains(r"^\d+$").all():
        return None, None  # ids
    if (kind.is_float() or kind.is_decimal()) and distinct > FEW_VALUES:
        return "numeric", None
    longest = int(text.str.len_chars().max())  # pyright: ignore[reportArgumentType]
    if distinct <= max(FEW_VALUES, FEW * len(text)) and longest <= 100:
        return "categorical", None
    known = text.filter(~text.str.strip_chars().str.to_lowercase().is_in(MISSING)).to_frame("x")
    numbers = known.select(number(pl.col("x"), decimal)).to_series()
    return ("numeric" if len(numbers) > numbers.null_count() == 0 else None), None


def _separator(text: pl.Series) -> str | None:
    """What stands between tokens, where many values have several."""
    text = text.str.replace_all(r"&#?\w+;", "")  # entities of HTML
    for separator in ("|", ";"):
        if text.str.contains(separator, literal=True).mean() > 0.2:  # pyright: ignore[reportOperatorIssue]
            return separator
    return None
