"""The profile of a log before any training: what its rows, users, items and texts are like."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from corellarec.base.errors import ConfigError, ModelError
from corellarec.config import Config, LlmConfig
from corellarec.data.levels import FIRST
from corellarec.data.log import Log
from corellarec.data.prepare import Prepared
from corellarec.data.splits import SPLITS
from corellarec.evaluation.profile.parts import (
    Counted,
    FeatureProfile,
    Popularity,
    Profile,
    SplitProfile,
    TextCost,
)
from corellarec.llm.layout import build_layout
from corellarec.llm.load import load_tokenizer
from corellarec.llm.sequence import tokens_read

PERIODS = {"day": ("1d", 120), "week": ("1w", 1100), "month": ("1mo", None)}  # of so many days
QUARTERS = 4
TOP = 3  # values of a feature
CATEGORIES = 8
MOST_CATEGORIES = 200  # values of a column that groups items
SAMPLE_ITEMS, SAMPLE_ROWS = 20_000, 20_000
TOKENS_PER_SECOND = 1_800.0
DAY_SECONDS = 86_400
HISTORY_STEPS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def profile(
    prepared: Prepared, config: Config, name: str, tokens_per_second: float = TOKENS_PER_SECOND
) -> Profile:
    """Describe a prepared log.

    Args:
        prepared: The log, as :func:`corellarec.data.prepare.build` gives it.
        config: Names the language model and its text.
        name: What the log is called.
        tokens_per_second: Rate for the time that reading would take.
    """
    facts = prepared.facts
    rows = prepared.rows
    if facts.settings.is_implicit:  # what users did, and not the drawn negatives
        rows = rows.filter(pl.col("label") == 1)
    log = Log(rows, prepared.users, prepared.items, facts.features, facts.history, facts.ties)
    unit = _unit(rows)
    text, no_text = None, ""
    try:
        text = _text(log, config.llm, tokens_per_second)
    except (ConfigError, ModelError) as error:
        no_text = str(error)
    label = rows["label"]
    return Profile(
        name=name,
        rows=rows.height,
        users=prepared.users.height,
        items=facts.items,
        positives=int(label.sum()),
        untitled=facts.untitled_items,
        unit=unit,
        periods=_periods(rows, unit),
        cuts=tuple(facts.splits[split].first.isoformat() for split in SPLITS[1:]),
        splits=_splits(log),
        ratings=_ratings(rows, facts.features.ratings),
        segments=_segments(log, rows),
        of_items=_popularity(np.bincount(rows["item"].to_numpy())),
        of_users=_popularity(np.bincount(rows["user"].to_numpy())),
        histories=_histories(log),
        features=(
            *_features(prepared.users, "user"),
            *_features(prepared.items, "item"),
        ),
        text=text,
        no_text=no_text,
        warnings=facts.warnings,
    )


def _unit(rows: pl.DataFrame) -> str:
    """Day, week or month, so that there are at most about 160."""
    first, last = rows.select(pl.col("time").min(), last=pl.col("time").max()).row(0)
    days = (last - first).total_seconds() / DAY_SECONDS
    return next(unit for unit, (_, most) in PERIODS.items() if most is None or days <= most)


def _periods(rows: pl.DataFrame, unit: str) -> tuple[Counted, ...]:
    """Rows of every period from the first to the last, those without rows included."""
    every = PERIODS[unit][0]
    counted = (
        rows.group_by(pl.col("time").dt.truncate(every).alias("period"))
        .agg(rows=pl.len(), positives=pl.col("label").sum())
        .sort("period")
        .upsample("period", every=every)
    )
    filled = counted.with_columns(pl.col("rows", "positives").fill_null(0))
    return tuple(
        Counted(period.date().isoformat(), count, positives)
        for period, count, positives in filled.select("period", "rows", "positives").iter_rows()
    )


def _splits(log: Log) -> tuple[SplitProfile, ...]:
    found = []
    cold_user = (log.user_train_rows == 0)[log.user.long()].numpy()
    cold_item = (log.item_train_rows == 0)[log.item.long()].numpy()
    for number, name in enumerate(SPLITS):
        inside = (log.split == number).numpy()
        part = log.rows.filter(pl.Series(inside))
        first, last = part.select(pl.col("time").min(), last=pl.col("time").max()).row(0)
        found.append(
            SplitProfile(
                name=name,
                rows=part.height,
                positives=int(part["label"].sum()),
                first=first.isoformat(),
                last=last.isoformat(),
                users=part["user"].n_unique(),
                cold_users=float(cold_user[inside].mean()),
                cold_items=float(cold_item[inside].mean()),
            )
        )
    return tuple(found)


def _ratings(rows: pl.DataFrame, edges: Sequence[float]) -> tuple[Counted, ...]:
    counts = {
        level: (count, positives)
        for level, count, positives in rows.group_by("level")
        .agg(pl.len(), pl.col("label").sum())
        .iter_rows()
    }
    return tuple(
        Counted(f"{edge:g}", *counts.get(place + FIRST, (0, 0))) for place, edge in enumerate(edges)
    )


def _segments(log: Log, rows: pl.DataFrame) -> dict[str, tuple[Counted, ...]]:
    """Rows after training by what is known of their user, and all rows by their item."""
    label = rows["label"].to_numpy()
    later = rows["split"].is_in([1, 2]).to_numpy()
    user, item = rows["user"].to_numpy(), rows["item"].to_numpy()
    known = (log.user_train_rows.numpy() > 0)[user]
    seen = (log.item_train_rows.numpy() > 0)[item]

    def count(name: str, mask: NDArray[np.bool_]) -> Counted:
        return Counted(name, int(mask.sum()), int(label[mask].sum()))

    found = {
        "user, validation and test rows": (
            count("in training", later & known),
            count("cold", later & ~known),
        ),
        "item, validation and test rows": (
            count("in training", later & seen),
            count("cold", later & ~seen),
        ),
        "item's rows in the log": _quarters(np.bincount(item)[item], count),
    }
    if grouped := _category(log.items):
        column, names = grouped
        top = names.gather(pl.Series(item)).value_counts(sort=True).drop_nulls()[names.name]
        of_rows = names.gather(pl.Series(item))
        found[column] = tuple(
            count(str(name), (of_rows == name).fill_null(value=False).to_numpy())
            for name in top.head(CATEGORIES)
        )
    return found


def _quarters(
    value: NDArray[np.int64], count: Callable[[str, NDArray[np.bool_]], Counted]
) -> tuple[Counted, ...]:
    """Rows in about equal quarters by a number."""
    edges = np.unique(np.quantile(value, np.arange(1, QUARTERS + 1) / QUARTERS, method="lower"))
    found, low = [], 0
    for high in edges:
        inside = (value > low) & (value <= high)
        found.append(count(f"{low + 1:,} to {high:,}" if high > low + 1 else f"{high:,}", inside))
        low = int(high)
    return tuple(found)


def _category(items: pl.DataFrame) -> tuple[str, pl.Series] | None:
    """The column that groups items, and each item's (first) value of it."""
    best, most = None, 0
    for name in _names(items):
        column = items[name]
        if isinstance(column.dtype, pl.List):
            column = column.list.first()
        if column.dtype != pl.String:
            continue
        column = column.replace("", None)
        known = len(column) - column.null_count()
        if 1 < column.n_unique() <= min(MOST_CATEGORIES, len(items) / 2) and known > most:
            best, most = (name, column), known
    return best


def _popularity(counts: NDArray[np.int64]) -> Popularity:
    """Of the rows of each user, or each item."""
    ordered = np.sort(counts)[::-1]
    total, n = ordered.sum(), len(ordered)
    rows = np.cumsum(ordered) / total
    # Twice the area between the curve of the rarest first and the diagonal.
    ascending = ordered[::-1]
    gini = float(2 * (np.arange(1, n + 1) @ ascending) / (n * total) - (n + 1) / n)
    places = np.unique(np.concatenate([np.linspace(0, n, 101).round(), np.arange(min(n, 20))]))
    places = places.astype(int)
    curve = np.concatenate([[0.0], rows])[places]
    return Popularity(
        entities=n,
        gini=gini,
        share=tuple((places / n).tolist()),
        rows=tuple(curve.tolist()),
        median=float(np.median(ordered)),
        largest=int(ordered[0]),
    )


def _histories(log: Log) -> tuple[tuple[str, int, int], ...]:
    """Users by rows, and rows of validation and test by the rows of their user before them."""
    of_users = np.diff(log.user_begin.numpy())
    later = (log.split > 0).logical_and(log.split < len(SPLITS)).nonzero().squeeze(1)
    samples = log.samples(later)
    before = (samples.end - samples.begin).numpy()
    found = []
    for low, high in zip(HISTORY_STEPS, (*HISTORY_STEPS[1:], None), strict=True):
        last = np.inf if high is None else high - 1
        name = f"{low:,}+" if high is None else f"{low}" if high == low + 1 else f"{low}-{high - 1}"
        counts = [int(((n >= low) & (n <= last)).sum()) for n in (of_users, before)]
        found.append((name, *counts))
    while found and found[-1][1:] == (0, 0):
        found.pop()
    return tuple(found)


def _names(table: pl.DataFrame) -> list[str]:
    """The features of a prepared table."""
    derived = {"id", "title", "train_rows"}
    return [
        name
        for name in table.columns
        if name not in derived
        and not (name.endswith(("_code", "_values")) and table[name].dtype != pl.String)
    ]


def _features(table: pl.DataFrame, side: str) -> list[FeatureProfile]:
    found = []
    for name in _names(table):
        column = table[name]
        if column.dtype.is_numeric():
            known = column.drop_nulls()
            known = known.filter(known.is_finite()) if known.dtype.is_float() else known
            top = ""
            if len(known):
                low, mid, high = known.min(), known.median(), known.max()
                top = f"{low:g} to {high:g}, median {mid:g}"
            missing, distinct, kind = 1 - len(known) / len(column), known.n_unique(), "number"
        else:
            kind = "list" if isinstance(column.dtype, pl.List) else "category"
            if kind == "list":
                empty = column.list.drop_nulls().list.set_difference([""]).list.len() == 0
            else:
                empty = column == ""
            missing = float((column.is_null() | empty.fill_null(value=True)).mean())  # pyright: ignore[reportArgumentType]
            values = column.explode(empty_as_null=False) if kind == "list" else column
            values = values.filter(values.is_not_null() & (values != ""))
            distinct = values.n_unique()
            counts = values.rename("value").value_counts(sort=True).head(TOP)
            shares = [(value, count / len(column)) for value, count in counts.iter_rows()]
            top = ", ".join(f"{value} {100 * share:.0f} %" for value, share in shares)
        found.append(FeatureProfile(side, name, kind, float(missing), distinct, top))
    return found


def _text(log: Log, llm: LlmConfig, tokens_per_second: float) -> TextCost:
    """Tokens of titles and rows, of a sample where there are many."""
    tokenizer = load_tokenizer(llm.model)
    layout = build_layout(llm, log, tokenizer)
    titles = log.items["title"].drop_nulls()
    titles = titles.sample(SAMPLE_ITEMS, seed=0) if len(titles) > SAMPLE_ITEMS else titles
    lengths: Counter[int] = Counter()
    if len(titles):
        ids = tokenizer(titles.to_list(), add_special_tokens=False)["input_ids"]
        lengths.update(len(one) for one in ids)  # pyright: ignore[reportArgumentType]
    per_row = {}
    for split in SPLITS:
        rows = log.rows_of(split)
        if len(rows) > SAMPLE_ROWS:  # whole users, whose rows share sequences
            users = log.user[rows].numpy()
            order = np.random.default_rng(0).permutation(np.unique(users))
            counts = np.bincount(users, minlength=log.users.height)
            some = order[: 1 + int(np.searchsorted(counts[order].cumsum(), SAMPLE_ROWS))]
            rows = rows[torch.from_numpy(np.isin(users, some))]
        per_row[split] = tokens_read(layout.encode(log.samples(rows))) / len(rows)
    return TextCost(
        model=llm.model,
        layout=llm.layout,
        template=llm.template,
        title_tokens=tuple(sorted(lengths.items())),
        tokens_per_row=per_row,
        tokens_per_second=tokens_per_second,
    )
