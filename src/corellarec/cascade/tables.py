"""Callers' tables of pairs, events, items and users, in the numbers of a log."""

from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl
import torch
from torch import Tensor

from corellarec.base.errors import DataError
from corellarec.base.frames import check_plain, ids_of, inner_type, readable, require_columns
from corellarec.data.extend import append
from corellarec.data.levels import rating_levels
from corellarec.data.log import Log
from corellarec.data.times import UTC_TEXT, TimeText, read_times

OUTPUT_COLUMNS = ("p", "p_crm", "p_llm", "source", "entropy")


@dataclass(frozen=True)
class Pairs:
    """Pairs to score, in the numbers of a log.

    Args:
        user: ``(n,)`` int64, -1 where the log does not know the user.
        item: ``(n,)`` int64.
        time: ``(n,)`` int64 microseconds since 1970, or None where no times are given.
    """

    user: Tensor
    item: Tensor
    time: Tensor | None

    @property
    def unknown_users(self) -> int:
        """Pairs whose user the log does not know."""
        return int((self.user < 0).sum())


def read_pairs(
    log: Log, table: pl.DataFrame, name: str, first_row: int = 1, text: TimeText = UTC_TEXT
) -> Pairs:
    """Look up the pairs of a table with the columns ``user``, ``item`` and perhaps ``time``.

    Args:
        log: Its users and items.
        table: The pairs.
        name: What messages call the table.
        first_row: Number of the table's first row, for messages.
        text: As for :func:`read_times`.

    Raises:
        DataError: If an id is missing or of a wrong type, an item is not known, or a time cannot
            be read.
    """
    if clash := set(OUTPUT_COLUMNS) & set(table.columns):
        raise DataError(f"{name}: rename the column {min(clash)!r}, which the output adds")
    user = checked_numbers(ids_of(table, "user", name, first_row), log.users, name)
    item = checked_numbers(ids_of(table, "item", name, first_row), log.items, name)
    unknown = (item == -1).arg_true()
    if len(unknown):
        place = int(unknown[0])
        raise DataError(
            f"{name}, row {first_row + place}: item {table['item'][place]!r} is not known; "
            f"{len(unknown)} such row(s): give new items with their titles (--items FILE, "
            "Cascade.add_items), or remove the rows"
        )
    time = None
    if "time" in table.columns:
        time = _tensor(read_times(table, name, first_row, text))
    return Pairs(_tensor(user), _tensor(item), time)


def numbers_of(ids: pl.Series, entities: pl.DataFrame) -> pl.Series:
    """Row numbers of ids in a table of users or items, int64; -1 where an id is not in it."""
    if len(ids) == 1:  # a single request must not index the whole table
        return pl.Series([entities["id"].index_of(ids[0])], dtype=pl.Int64).fill_null(-1)
    index = entities.select("id", number=pl.int_range(pl.len()))
    found = ids.alias("id").to_frame().join(index, on="id", how="left", maintain_order="left")
    return found["number"].fill_null(-1)


def checked_numbers(ids: pl.Series, entities: pl.DataFrame, name: str) -> pl.Series:
    """As :func:`numbers_of`, of a column that the caller's table, ``name``, has.

    Raises:
        DataError: If the log does not know an id, but knows it without a ``.0`` at its end.
    """
    numbers = numbers_of(ids, entities)
    unknown = ids.filter(numbers == -1)
    floats = unknown.filter(unknown.str.contains(r"^\d+\.0+$"))
    whole = floats.str.extract(r"^(\d+)")
    is_known = whole.is_in(entities["id"].implode())
    if is_known.any():
        raise DataError(
            f"{name}: {ids.name} {floats.filter(is_known)[0]!r} is not known, but "
            f"{whole.filter(is_known)[0]!r} is: the ids went through floats; write the column "
            f"{ids.name!r} as whole numbers or text"
        )
    return numbers


def read_events(
    log: Log,
    table: pl.DataFrame,
    positive_rating: float,
    name: str,
    text: TimeText = UTC_TEXT,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Interactions as rows for :meth:`corellarec.data.log.Log.extended`.

    Args:
        log: Its items must hold those of the events.
        table: ``user``, ``item``, and ``label`` (1 or 0, true or false) or ``rating``; perhaps
            ``time``, by default now. Of a log without negatives every row is positive by default.
        positive_rating: Ratings at or above it are positive.
        name: What messages call the table.
        text: As for :func:`read_times`.

    Returns:
        The rows, and the user table with the new users below.

    Raises:
        DataError: If a value is missing or cannot be used, or an item is not known.
    """
    users_ids = ids_of(table, "user", name)
    new = users_ids.unique(maintain_order=True)
    new = new.filter(checked_numbers(new, log.users, name) == -1)
    users = log.users
    if len(new):
        users = append(users, pl.DataFrame({"id": new}), log.features.user,
                       log.features.user_values)  # fmt: skip
    item = checked_numbers(ids_of(table, "item", name), log.items, name)
    if (item == -1).any():
        place = int((item == -1).arg_true()[0])
        raise DataError(
            f"{name}, row {place + 1}: item {table['item'][place]!r} is not known: give it with "
            "its title first (--items FILE, Cascade.add_items)"
        )
    now = int(datetime.now(UTC).timestamp() * 1_000_000)
    time = (
        read_times(table, name, text=text)
        if "time" in table.columns
        else pl.Series([now] * table.height, dtype=pl.Int64)
    )
    if log.negatives and not {"label", "rating"} & set(table.columns):
        table = table.with_columns(label=pl.lit(1, pl.Int8))
    label = level = read_labels(table, positive_rating, name)
    if "rating" in table.columns and log.features.ratings:
        rating = table["rating"].cast(pl.Float64, strict=False)
        known = pl.Series(rating_levels(rating.fill_null(0.0).to_numpy(), log.features.ratings))
        level = label.zip_with(rating.is_null(), known)
    rows = pl.DataFrame(
        {
            "user": numbers_of(users_ids, users).cast(pl.Int32),
            "item": item.cast(pl.Int32),
            "label": label,
            "level": level,
            "time": time.cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
        }
    )
    return rows, users


def read_labels(table: pl.DataFrame, positive_rating: float, name: str) -> pl.Series:
    """``(n,)`` int8 labels of a table with ``label``, or with ``rating``.

    Raises:
        DataError: If it has neither, or a value is not a label or a number.
    """
    given = [name for name in ("label", "rating") if name in table.columns]
    require_columns(table, name, given)
    if "label" in table.columns:
        text = table["label"].cast(pl.String).str.to_lowercase()
        label = text.replace_strict(
            ["1", "1.0", "true", "0", "0.0", "false"], [1, 1, 1, 0, 0, 0],
            default=None, return_dtype=pl.Int8,
        )  # fmt: skip
        wanted = "1 or 0"
    elif "rating" in table.columns:
        rating = table["rating"].cast(pl.Float64, strict=False)
        label = (rating >= positive_rating).cast(pl.Int8)
        wanted = "a number"
    else:
        raise DataError(
            f"{name}: no column 'label' (1 or 0) or 'rating'; found: {', '.join(table.columns)}"
        )
    if label.null_count():
        column = "label" if "label" in table.columns else "rating"
        row = int(label.is_null().arg_true()[0])
        raise DataError(f"{name}, row {row + 1}: {column} {table[column][row]!r} is not {wanted}")
    return label


def read_new(entities: pl.DataFrame, table: pl.DataFrame, name: str) -> pl.DataFrame:
    """Users or items of a table that are not among ``entities``, each once, with ``id`` as text.

    Args:
        entities: The log's users or items.
        table: ``id`` (or ``user``, ``item``) and features.
        name: What messages call the table.

    Returns:
        ``id``, and the columns that ``entities`` has, typed as there.

    Raises:
        DataError: If it has no column of ids, or a column cannot be of the type of the log's.
    """
    key = next((key for key in ("id", "item", "user") if key in table.columns), None)
    if key is None:
        raise DataError(f"{name}: no column 'id'; found: {', '.join(table.columns)}")
    columns = [ids_of(table, key, name).alias("id")]
    for column, kind in entities.drop("id").schema.items():
        if column in table.columns:
            given = table.schema[column]
            check_plain(inner_type(given) if kind == pl.List else given, column, name)
            with readable(f"{name}: the column {column!r}"):
                columns.append(table[column].cast(kind, strict=False))
    table = pl.DataFrame(columns)
    table = table.unique("id", keep="first", maintain_order=True)
    return table.filter(checked_numbers(table["id"].alias(key), entities, name) == -1)


def _tensor(column: pl.Series) -> Tensor:
    return torch.from_numpy(column.to_numpy().copy())
