"""Who wins where: the test rows cut into groups in several ways."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from torch import Tensor

from corellarec.base.metrics import Floats, entropy
from corellarec.data.log import Log
from corellarec.evaluation.figures import Figures

GENRES = 8  # the most frequent ones are shown
DAY = 86_400_000_000  # microseconds
FEW_ROWS, FEW_USERS = 200, 10  # below these a group has counts and no figures

Cut = dict[str, NDArray[np.bool_]]


def cuts(log: Log, rows: Tensor, p_crm: Floats, groups: int) -> dict[str, Cut]:
    """Ways to group the rows, each a mask for each group; a row may be in several genres.

    Args:
        log: The prepared log.
        rows: ``(n,)`` row numbers.
        p_crm: ``(n,)`` the CRM's calibrated probabilities.
        groups: Groups of equal size by what can be ordered.
    """
    samples = log.samples(rows)
    history = (samples.end - samples.begin).numpy()
    user, item = log.user_train_rows[samples.user], log.item_train_rows[samples.item]
    ways = {
        "CRM confidence (least confident first)": _thirds(-entropy(p_crm), groups, name=None),
        "item popularity (training rows)": _thirds(item.numpy(), groups, name="{} to {}"),
        "history length (rows)": _thirds(history, groups, name="{} to {}"),
        "user": {"cold": (user == 0).numpy(), "seen in training": (user > 0).numpy()},
        "item": {"cold": (item == 0).numpy(), "seen in training": (item > 0).numpy()},
        "days since the user's last row": _gaps(log, rows, history),
    }
    return ways | _lists(log, samples.item)


def _thirds(value: Floats, groups: int, name: str | None) -> Cut:
    """Groups of equal size by a value, ascending; those of equal value stay together if named."""
    order = np.argsort(value, kind="stable")
    if name is None:
        return {
            f"group {number}": _mask(part, len(value))
            for number, part in enumerate(np.array_split(order, groups), 1)
        }
    edges = np.unique([value[part[-1]] for part in np.array_split(order, groups)])
    found, low = {}, -np.inf
    for high in edges:
        inside = (value > low) & (value <= high)
        found[name.format(int(value[inside].min()), int(high))] = inside
        low = high
    return found


def _mask(rows: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
    mask = np.zeros(count, dtype=bool)
    mask[rows] = True
    return mask


def _gaps(log: Log, rows: Tensor, history: NDArray[np.int64]) -> Cut:
    time = log.time.numpy()
    days = (time[rows.numpy()] - time[np.maximum(rows.numpy() - 1, 0)]) / DAY
    # The row before is the same user's wherever there is a history of all rows.
    some = (history > 0) & (log.user[rows] == log.user[(rows - 1).clamp(min=0)]).numpy()
    return {
        "less than an hour": some & (days < 1 / 24),
        "less than a week": some & (days >= 1 / 24) & (days < 7),
        "a week or more": some & (days >= 7),
        "no row before": ~some,
    }


def _lists(log: Log, item: Tensor) -> dict[str, Cut]:
    """A way for each multi-valued column of the items, such as the genres."""
    found = {}
    for column in log.items.columns:
        if log.items[column].dtype != pl.List(pl.String):
            continue
        values = log.items[column].gather(item.numpy()).fill_null([])
        frequent = values.explode().drop_nulls().value_counts(sort=True).head(GENRES)
        found[column] = {
            name: values.list.contains(name).to_numpy() for name in frequent[column].to_list()
        }
    return found


def segments(
    figures: Figures, ways: Mapping[str, Cut], predictors: Mapping[str, Floats]
) -> list[dict[str, Any]]:
    """Each predictor in each group, and its differences from the first predictor.

    Args:
        figures: Of all rows.
        ways: From :func:`cuts`.
        predictors: ``(n,)`` probabilities by name; the first is compared against.
    """
    found = []
    for title, cut in ways.items():
        groups = []
        for name, inside in cut.items():
            here = figures.of(inside)
            rows, users = int(inside.sum()), len(np.unique(here.user))
            group: dict[str, Any] = {"name": name, "rows": rows, "users": users}
            enough = rows >= FEW_ROWS and users >= FEW_USERS and 0 < here.label.mean() < 1
            if enough:
                group["positives"] = float(here.label.mean())
                parts = {who: p[inside] for who, p in predictors.items()}
                first = next(iter(parts.values()))
                group["predictors"] = {
                    who: {
                        metric: here.figure(metric, [p])
                        | {"over": here.figure(metric, [p], [first])}
                        for metric in ("auc", "log_loss")
                    }
                    for who, p in parts.items()
                }
            if rows:
                groups.append(group)
        if len(groups) > 1:
            found.append({"title": title, "groups": groups})
    return found
