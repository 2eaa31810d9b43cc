"""Rows as they were read, put in order: ids as numbers, sorted by (user, time, item), none twice.

Users are taken a part at a time, so that sorting copies a part and not the log.
"""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corellarec.base.errors import DataError
from corellarec.data.preparation import LeftOut
from corellarec.data.rows import Rows
from corellarec.data.splits import split_numbers

Columns = dict[str, np.ndarray]
PART = 2_000_000  # rows that are sorted at once; a user's are never divided
KINDS = {"user": np.int32, "item": np.int32, "value": np.float32, "time": np.int64}


def in_order(
    read: Rows,
    enough: pl.Expr | None = None,
    titled: pl.Series | None = None,
    min_user_rows: int = 0,
    min_item_rows: int = 0,
) -> tuple[pl.DataFrame, pl.Series, pl.Series, LeftOut]:
    """The rows of a log in order.

    Args:
        read: The rows, in any order.
        enough: Which of them count; the others are left out as negatives.
        titled: Ids of the items whose rows are kept; None: all.
        min_user_rows: Users with fewer rows are left out ...
        min_item_rows: ... and items with fewer.

    Returns:
        ``user``, ``item`` (int32, places in the ids below), ``value`` (float32), ``time`` (int64)
        and perhaps ``split`` (int8), sorted by (user, time, item); the ids of users and of items,
        sorted; and what was left out, but for bad rows.

    Raises:
        DataError: If nothing is left, or a given split has an unknown name.
    """
    user_ids, user_of = _dense(read.users)
    item_ids, item_of = _dense(read.items)
    frame = read.frame if enough is None else read.frame.filter(enough)
    counts = np.zeros(len(user_ids), np.int64)
    for batch in frame.select("user").collect_batches(maintain_order=False):
        np.add.at(counts, user_of[batch["user"].to_numpy()], 1)
    columns, begins = _in_parts(frame, user_of, item_of, counts)
    del user_of, item_of
    untitled = None if titled is None else ~item_ids.is_in(titled.implode()).to_numpy()
    height, duplicates, without_title = _sort_parts(columns, begins, untitled)
    rows = pl.DataFrame({name: column[:height] for name, column in columns.items()})
    rows = _core(rows, min_user_rows, min_item_rows)
    left_out = LeftOut(
        bad_rows=0,
        duplicate_rows=duplicates,
        rows_of_untitled_items=without_title,
        rows_below_core=height - rows.height,
        negative_rows=read.height - int(counts.sum()),
    )
    if rows.is_empty():
        raise DataError(
            "nothing is left of the log: "
            + ", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in asdict(left_out).items())
            + "; ask for less with data.untitled, data.min_user_rows, data.min_item_rows"
        )
    users, user_ids = _compact(rows["user"], user_ids)
    items, item_ids = _compact(rows["item"], item_ids)
    return rows.with_columns(user=users, item=items), user_ids, item_ids, left_out


def _dense(ids: pl.Series) -> tuple[pl.Series, NDArray[np.int32]]:
    """Ids in order, and the place of each among them."""
    order = ids.arg_sort()
    place = np.empty(len(order), dtype=np.int32)
    place[order.to_numpy()] = np.arange(len(order), dtype=np.int32)
    return ids.gather(order), place


def _in_parts(
    frame: pl.LazyFrame,
    user_of: NDArray[np.int32],
    item_of: NDArray[np.int32],
    counts: NDArray[np.int64],
) -> tuple[Columns, list[int]]:
    """Columns in which the rows of each part of the users lie together, and where parts begin.

    Args:
        frame: The rows.
        user_of: The number of each of its users ...
        item_of: ... and of its items.
        counts: Rows of each user.
    """
    rows = int(counts.sum())
    part_of = ((np.cumsum(counts) - counts) // PART).astype(np.uint16)  # sorted by digits
    sizes = np.bincount(part_of, counts).astype(np.int64)
    begins = np.append(0, np.cumsum(sizes))
    kinds = KINDS | ({"split": np.int8} if "split" in frame.collect_schema() else {})
    columns = {name: np.empty(rows, kind) for name, kind in kinds.items()}
    free = begins[:-1].copy()
    for batch in frame.collect_batches(maintain_order=False):
        user = user_of[batch["user"].to_numpy()]
        found: Columns = {"user": user, "item": item_of[batch["item"].to_numpy()]}
        if "split" in kinds:
            found["split"] = split_numbers(batch["split"])
        part = part_of[user]
        order = np.argsort(part, kind="stable")
        size = np.bincount(part, minlength=len(sizes))
        place = np.arange(len(part)) + np.repeat(free - (np.cumsum(size) - size), size)
        for name, column in columns.items():
            values = found[name] if name in found else batch[name].to_numpy()
            column[place] = values[order]
        free += size
    return columns, begins.tolist()


def _sort_parts(
    columns: Columns, begins: Sequence[int], untitled: NDArray[np.bool_] | None
) -> tuple[int, int, int]:
    """Sort each part in its place and move what is kept to the front.

    Args:
        columns: The columns, changed in place.
        begins: Where each part begins, and where the last one ends.
        untitled: Which items have no title, where their rows are left out.

    Returns:
        How many rows are kept, are duplicates, and are of untitled items.
    """
    height = duplicates = without_title = 0
    for begin, end in pairwise(begins):
        part = pl.DataFrame({name: column[begin:end] for name, column in columns.items()})
        # One interaction noted twice: the higher rating stays, whatever the order in the file.
        part = part.sort("user", "time", "item", "value")
        kept = ~_repeated(part)
        duplicates += part.height - int(kept.sum())
        if untitled is not None:
            drop = kept & untitled[part["item"].to_numpy()]
            without_title += int(drop.sum())
            kept &= ~drop
        part = part if kept.all() else part.filter(kept)
        for name, column in columns.items():
            column[height : height + part.height] = part[name].to_numpy()
        height += part.height
    return height, duplicates, without_title


def _repeated(rows: pl.DataFrame) -> NDArray[np.bool_]:
    """Whether the next row has the same user, time and item."""
    same = np.ones(rows.height, dtype=bool)
    same[-1:] = False
    for column in (rows[name].to_numpy() for name in ("user", "time", "item")):
        same[:-1] &= column[:-1] == column[1:]
    return same


def _core(rows: pl.DataFrame, min_user_rows: int, min_item_rows: int) -> pl.DataFrame:
    """The largest part in which every user and item has enough rows."""
    if max(min_user_rows, min_item_rows) <= 1:
        return rows
    user, item = rows["user"].to_numpy(), rows["item"].to_numpy()
    kept = np.arange(len(user))
    while True:
        enough = (np.bincount(user)[user] >= min_user_rows) & (
            np.bincount(item)[item] >= min_item_rows
        )
        if enough.all():
            return rows if len(kept) == rows.height else rows[kept]
        kept, user, item = kept[enough], user[enough], item[enough]


def _compact(numbers: pl.Series, ids: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Numbers without gaps, in the same order, and the ids that are left."""
    found = np.zeros(len(ids), dtype=bool)
    found[numbers.to_numpy()] = True
    if found.all():
        return numbers, ids
    places = np.cumsum(found, dtype=np.int32) - 1
    return pl.Series(places[numbers.to_numpy()].astype(np.int32)), ids.filter(pl.Series(found))
