"""Warnings: what in a log can be used, but is probably not what was meant."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corellarec.config import DataConfig
from corellarec.config.data import VocabularyConfig
from corellarec.data.levels import halving_threshold
from corellarec.data.preparation import FeatureLayout, Preparation
from corellarec.data.raw import Field, RawLog
from corellarec.data.rows import Rows
from corellarec.data.times import SECOND

EARLIEST = 315_532_800 * SECOND  # 1980
LATEST = 4_102_444_800 * SECOND  # 2100
OFTEN = 0.5
MOSTLY = 0.8
SELDOM = 0.05
LOPSIDED = 0.1  # share of positives by ratings, or of negatives
MANY = 100  # values of a category
RARE = 0.001  # by labels: few clicks are normal
FLOAT = r"^\d+\.0+$"


def check_rows(read: Rows, raw: RawLog, config: DataConfig) -> list[str]:
    """Warnings about the rows as they stand in the files."""
    odd, followed, late = _odd_times(read)
    found = []
    if odd:
        found.append(
            f"{odd:,} rows are from before 1980 or after 2100, with times read as "
            f"{read.time_unit or 'dates'}: if these are calendar times, set data.time_unit "
            "(s, ms, us or ns) or correct them"
        )
    if 0 < late <= SELDOM * followed:
        found.append(
            f"{late:,} rows are earlier than the row before them of the same user: rows are sorted "
            "by time here; if the files' order is the right one, their times are wrong"
        )
    for side in ("user", "item"):
        ids = getattr(read, f"{side}s")
        floats = ids.filter(ids.str.contains(FLOAT))
        if len(floats):
            found.append(
                f"{len(floats):,} of {len(ids):,} {side} ids look like floats ({floats.min()!r}): "
                "ids that went through floats can have collided; write them as integers or text"
            )
        found += _alike(ids, raw.items["id"] if side == "item" else raw.users["id"], side)
    if config.is_implicit and raw.labelled:
        return found
    value = read.frame.select("value").collect(engine="streaming")["value"].to_numpy()
    positive_rating = config.positive_rating
    if not raw.labelled and value.min() == value.max():
        found.append(f"every rating is {value[0]:g}: is the right column the rating?")
    else:
        found += _lopsided(value, None if raw.labelled else positive_rating)
    return found


def _odd_times(read: Rows) -> tuple[int, int, int]:
    """Rows of unlikely times, those below another of the same user, and those earlier than it."""
    odd = followed = late = 0
    before = None
    for batch in read.frame.select("user", "time").collect_batches(maintain_order=True):
        rows = batch if before is None else pl.concat([before, batch])
        user, time = rows["user"].to_numpy(), rows["time"].to_numpy()
        same_user = user[1:] == user[:-1]
        odd += batch.height - int(batch["time"].is_between(EARLIEST, LATEST).sum())
        followed += int(same_user.sum())
        late += int((same_user & (time[1:] < time[:-1])).sum())
        before = batch.tail(1)
    return odd, followed, late


def _lopsided(value: NDArray[np.float32], positive_rating: float | None) -> list[str]:
    """A warning of labels, or of ratings where there is a threshold, that are nearly all alike."""
    if positive_rating is None:
        share = value.mean()
        if RARE <= share <= 1 - RARE:
            return []
        return [f"{share:.2%} of the rows are positive: is the right column the label?"]
    share = (value >= positive_rating).mean()
    if LOPSIDED <= share <= 1 - LOPSIDED:
        return []
    best, half = halving_threshold(value)
    return [
        f"{share:.1%} of the rows are positive: ratings go from {value.min():g} to "
        f"{value.max():g}, and data.positive_rating is {positive_rating:g}; with {best:g} it "
        f"would be {half:.0%}"
    ]


def _alike(ids: pl.Series, listed: pl.Series, side: str) -> list[str]:
    """A warning of ids that differ in leading zeros alone, such as 007 and 7."""
    distinct = pl.concat([ids.cast(pl.String), listed.cast(pl.String)]).unique()
    numbers = distinct.filter(distinct.str.contains(r"^\d+$")).to_frame("id")
    bare = pl.col("id").str.strip_chars_start("0")
    twins = numbers.filter(bare.is_duplicated()).sort(bare, "id")["id"]
    if twins.is_empty():
        return []
    return [
        f"{len(twins):,} {side} ids differ from another one in leading zeros alone "
        f"({twins[0]!r}, {twins[1]!r}) and are different {side}s here: write ids the same way "
        "everywhere"
    ]


def check_tables(
    facts: Preparation, rows: pl.DataFrame, users: pl.DataFrame, items: pl.DataFrame, raw: RawLog
) -> list[str]:
    """Warnings about the prepared log, whose counts are ``facts``."""
    found = []
    if raw.items.height and not items["id"].is_in(raw.items["id"].implode()).any():
        found.append(
            f"none of the log's items is in the table of items: the log has {items['id'][0]!r}, "
            f"the table {raw.items['id'].min()!r}; is the id the right column in both?"
        )
    if facts.settings.interactions:  # of a known layout no feature can be left out
        found += _check_features(raw.users, raw.user_fields, "user")
        found += _check_features(raw.items, raw.item_fields, "item")
        found += _check_twins(items, raw.item_fields)
    for side, table, layouts in (
        ("user", users, facts.features.user),
        ("item", items, facts.features.item),
    ):
        found += _check_sizes(table, layouts[1:], facts.settings.vocabulary, side)
    doubles = facts.left_out.duplicate_rows
    if doubles > 0.01 * rows.height:
        found.append(
            f"{doubles:,} rows repeat another one's user, item and time: they count once; if they "
            "are different events, their times are too coarse"
        )
    rows = rows.filter(pl.col("label") == 1) if facts.negatives else rows
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


def _check_features(table: pl.DataFrame, fields: Sequence[Field], side: str) -> list[str]:
    """Warnings about features that say little."""
    found = []
    for field in fields:
        column = table[field.name].drop_nulls()
        if field.kind == "multi":
            column = column.explode(empty_as_null=False).drop_nulls()
        column = column.filter(column.cast(pl.String) != "") if field.kind != "vector" else column
        known, distinct = len(column), column.n_unique()
        place = f"the {side}s' feature {field.name!r}"
        missing = 1 - known / max(1, table.height)
        if known and field.kind != "vector" and distinct == 1:
            found.append(f"{place} has one value, {column[0]!r}, and says nothing: leave it out")
        elif field.kind != "multi" and missing > OFTEN and table.height:
            found.append(f"{place} is missing for {missing:.0%} of the {side}s")
        elif field.kind == "categorical" and distinct > max(MANY, OFTEN * known):
            found.append(
                f"{place} has {distinct:,} values for {known:,} {side}s: nearly all differ, so "
                "that it says little; as a number it would be numeric"
            )
    return found


def _check_sizes(
    table: pl.DataFrame, layouts: Sequence[FeatureLayout], limits: VocabularyConfig, side: str
) -> list[str]:
    """Warnings of features with more values than have an embedding of their own."""
    found = []
    for feature in layouts:
        if feature.vocabulary <= limits.values or table.schema[feature.name].is_numeric():
            continue
        column = table.filter(pl.col("train_rows") > 0)[feature.name].drop_nulls()
        if isinstance(column.dtype, pl.List):
            column = column.explode(empty_as_null=False)
        if (distinct := column.n_unique()) > limits.values:
            rest = f"share {limits.shared:,} by a hash" if limits.shared else "have none"
            found.append(
                f"the {side}s' feature {feature.name!r} has {distinct:,} values in training: the "
                f"{limits.values:,} most frequent have an embedding of their own, the others "
                f"{rest} (data.vocabulary)"
            )
    return found


def _check_twins(items: pl.DataFrame, fields: Sequence[Field]) -> list[str]:
    """A warning of titled items that differ in nothing but their ids."""
    titled = items.filter(pl.col("title").str.strip_chars() != "")
    same = titled.select(
        "id",
        title=pl.col("title").str.strip_chars().str.to_lowercase(),
        **{
            f"feature {field.name}": pl.col(field.name).cast(pl.List(pl.String)).list.join("|")
            if field.kind == "multi"
            else pl.col(field.name)
            for field in fields
            if field.kind != "vector"
        },
    )
    twins = titled.with_columns(twin=same.select(pl.exclude("id")).is_duplicated())
    twins = twins.filter("twin").with_columns(pl.col("title").str.strip_chars().str.to_lowercase())
    if twins.is_empty():
        return []
    title = twins.sort("title", "id")["title"][0]
    pair = twins.filter(pl.col("title") == title).sort("id")["id"]
    return [
        f"{len(twins):,} items have the title and the features of another one, such as {pair[0]!r} "
        f"and {pair[1]!r} ({title!r}), and are different items here: if they are the same, give "
        "them one id"
    ]
