"""Who wins where: the test rows cut into groups in several ways."""

from collections.abc import Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray
from torch import Tensor

from corellarec.base.metrics import Floats, entropy
from corellarec.data.log import Log, Samples
from corellarec.evaluation.figures import Figures
from corellarec.evaluation.parts import Group, Segment

GENRES = 8  # the most frequent ones are shown
DAY = 86_400_000_000  # microseconds
FEW_ROWS, FEW_USERS = 200, 10  # below these a group has counts and no figures

CONFIDENCE = "CRM confidence (least confident first)"
Cut = dict[str, NDArray[np.bool_]]


def confidence_cut(p_crm: Floats, groups: int) -> Cut:
    """Groups of equal size by the CRM's entropy, most uncertain first (the paper's Figure 1)."""
    order = np.argsort(-entropy(p_crm), kind="stable")
    return {
        f"group {number}": _mask(part, len(order))
        for number, part in enumerate(np.array_split(order, groups), 1)
    }


def cuts(log: Log, rows: Tensor, groups: int) -> dict[str, Cut]:
    """Further ways to group the rows, each a mask for each group; a row may be in several genres.

    Args:
        log: The prepared log.
        rows: ``(n,)`` row numbers.
        groups: Groups of equal size by what can be ordered.
    """
    samples = log.samples(rows)
    history = (samples.end - samples.begin).numpy()
    user, item = log.user_train_rows[samples.user], log.item_train_rows[samples.item]
    ways = {
        "item popularity (training rows)": equal_groups(item.numpy(), groups),
        "history length (rows)": equal_groups(history, groups),
        "user": {"cold": (user == 0).numpy(), "seen in training": (user > 0).numpy()},
        "item": {"cold": (item == 0).numpy(), "seen in training": (item > 0).numpy()},
        "days since the user's last row": _gaps(log, samples),
    }
    return ways | _lists(log, samples.item)


def equal_groups(value: NDArray[np.int64], groups: int) -> Cut:
    """Groups of about equal size by a value, ascending; rows of equal value stay together."""
    order = np.argsort(value, kind="stable")
    edges = np.unique([value[part[-1]] for part in np.array_split(order, groups) if len(part)])
    cut, low = {}, -np.inf
    for high in edges:
        inside = (value > low) & (value <= high)
        cut[f"{value[inside].min()} to {high}"] = inside
        low = high
    return cut


def _mask(rows: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
    mask = np.zeros(count, dtype=bool)
    mask[rows] = True
    return mask


def _gaps(log: Log, samples: Samples) -> Cut:
    last = (samples.end - 1).clamp(min=0)
    days = ((log.time[samples.row] - log.history_time[last]) / DAY).numpy()
    some = (samples.end > samples.begin).numpy()
    return {
        "less than an hour": some & (days < 1 / 24),
        "less than a week": some & (days >= 1 / 24) & (days < 7),
        "a week or more": some & (days >= 7),
        "no row before": ~some,
    }


def _lists(log: Log, item: Tensor) -> dict[str, Cut]:
    """A way for each multi-valued column of the items, such as the genres."""
    ways = {}
    for column in log.items.columns:
        if log.items[column].dtype != pl.List(pl.String):
            continue
        values = log.items[column].gather(item.numpy()).fill_null([])
        frequent = values.explode().drop_nulls().value_counts(sort=True).head(GENRES)
        ways[column] = {
            name: values.list.contains(name).to_numpy() for name in frequent[column].to_list()
        }
    return ways


def segments(
    figures: Figures, ways: Mapping[str, Cut], predictors: Mapping[str, Floats]
) -> tuple[Segment, ...]:
    """Each predictor in each group, and its differences from the first predictor.

    Groups with too few rows or users have counts and no figures.

    Args:
        figures: Of all rows.
        ways: From :func:`cuts`.
        predictors: ``(n,)`` probabilities by name; the first is compared against.
    """
    measured = []
    for title, cut in ways.items():
        groups = tuple(
            _group(figures, name, inside, predictors)
            for name, inside in cut.items()
            if inside.any()
        )
        if len(groups) > 1:
            measured.append(Segment(title, groups))
    return tuple(measured)


def by_confidence(figures: Figures, predictors: Mapping[str, Floats], groups: int) -> Segment:
    """Groups of equal size by the entropy of the first predictor, most uncertain first.

    All have figures, however small they are.
    """
    cut = confidence_cut(next(iter(predictors.values())), groups)
    measured = (
        _group(figures, name, inside, predictors, few_rows=0, few_users=0)
        for name, inside in cut.items()
        if inside.any()
    )
    return Segment(CONFIDENCE, tuple(measured))


def _group(
    figures: Figures,
    name: str,
    inside: NDArray[np.bool_],
    predictors: Mapping[str, Floats],
    *,
    few_rows: int = FEW_ROWS,
    few_users: int = FEW_USERS,
) -> Group:
    part, rows = figures.of(inside), int(inside.sum())
    positives = float(part.label.mean())
    compared = {}
    if rows >= few_rows and part.users >= few_users and 0 < positives < 1:
        parts = {who: p[inside] for who, p in predictors.items()}
        first = next(iter(parts.values()))
        compared = {who: part.compared([p], [first]) for who, p in parts.items()}
    return Group(name, rows, part.users, positives, compared)
