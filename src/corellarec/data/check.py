"""Warnings: what in a log can be used, but is probably not what was meant."""

import numpy as np
import polars as pl

from corellarec.data.preparation import Preparation
from corellarec.data.raw import RawLog
from corellarec.data.rows import Rows
from corellarec.data.times import SECOND

EARLIEST = 315_532_800 * SECOND  # 1980
LATEST = 4_102_444_800 * SECOND  # 2100
OFTEN = 0.5
MOSTLY = 0.8
SELDOM = 0.05
FLOAT = r"^\d+\.0+$"


def check_rows(read: Rows, raw: RawLog) -> list[str]:
    """Warnings about the rows as they stand in the files."""
    rows, found = read.table, []
    odd = rows.filter(~pl.col("time").is_between(EARLIEST, LATEST)).height
    if odd:
        found.append(
            f"{odd:,} rows are from before 1980 or after 2100, with times read as "
            f"{read.time_unit or 'dates'}: if these are calendar times, set data.time_unit "
            "(s, ms, us or ns) or correct them"
        )
    same_user = pl.col("user") == pl.col("user").shift()
    backwards = same_user & (pl.col("time") < pl.col("time").shift())
    followed, late = rows.select(same_user.sum().alias("a"), backwards.sum().alias("b")).row(0)
    if 0 < late <= SELDOM * followed:
        found.append(
            f"{late:,} rows are earlier than the row before them of the same user: rows are sorted "
            "by time here; if the files' order is the right one, their times are wrong"
        )
    for side in ("user", "item"):
        ids = rows[side].cat.get_categories()
        floats = ids.filter(ids.str.contains(FLOAT))
        if len(floats):
            found.append(
                f"{len(floats):,} of {len(ids):,} {side} ids look like floats ({floats.min()!r}): "
                "ids that went through floats can have collided; write them as integers or text"
            )
    if not raw.labelled and rows["value"].n_unique() == 1:
        found.append(f"every rating is {rows['value'][0]:g}: is the right column the rating?")
    return found


def check_tables(
    facts: Preparation, rows: pl.DataFrame, items: pl.DataFrame, raw: RawLog
) -> list[str]:
    """Warnings about the prepared log, whose counts are ``facts``."""
    found = []
    if raw.items.height and not items["id"].is_in(raw.items["id"].implode()).any():
        found.append(
            f"none of the log's items is in the table of items: the log has {items['id'][0]!r}, "
            f"the table {raw.items['id'].min()!r}; is the id the right column in both?"
        )
    doubles = facts.left_out.duplicate_rows
    if doubles > 0.01 * rows.height:
        found.append(
            f"{doubles:,} rows repeat another one's user, item and time: they count once; if they "
            "are different events, their times are too coarse"
        )
    lengths = np.bincount(rows["user"].to_numpy())
    singles = int((lengths == 1).sum())
    if singles > OFTEN * len(lengths):
        found.append(
            f"{singles:,} of {len(lengths):,} users have one row, and so no history to read: "
            "data.min_user_rows leaves them out"
        )
    ties = rows.select(
        (pl.col("user") == pl.col("user").shift()) & (pl.col("time") == pl.col("time").shift())
    ).to_series()
    if int(ties.sum()) > MOSTLY * rows.height:
        found.append(
            f"{int(ties.sum()):,} of {rows.height:,} rows have the same time as the user's row "
            "before: their order is unknown and taken by item; finer times would help"
        )
    untitled = facts.untitled_items
    if untitled:
        share = untitled / items.height
        found.append(
            f"{untitled:,} of {items.height:,} items ({share:.0%}) have no title for the language "
            'model to read: add titles, or leave their rows out with data.untitled = "drop"'
        )
    titles = items["title"].drop_nulls()
    if len(titles) > 1 and titles.n_unique() < OFTEN * len(titles):
        found.append(
            f"{len(titles):,} titled items share {titles.n_unique():,} titles: the language model "
            "cannot tell them apart; put more into the title, such as {name} by {brand}"
        )
    splits = facts.splits
    for before, after in (("train", "validation"), ("train", "test"), ("validation", "test")):
        if splits[after].first < splits[before].last:
            found.append(
                f"the given {after} split begins ({splits[after].first}) before the {before} "
                f"split ends ({splits[before].last}): the models learn from what comes after "
                "what they are measured on"
            )
    return found
