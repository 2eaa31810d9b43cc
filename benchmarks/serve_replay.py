"""Whether the service answers as ``predict`` does: test rows replayed through HTTP, in their order.

The cascade in service knows no row of the test split; each is asked about, then sent as an event.
The same rows are scored by ``Cascade.predict`` as of their times, over the whole log. Both ask the
language model about every row, in fp32, without kept states.
"""

import json
import tempfile
import urllib.request
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from corellarec.cascade.cascade import Cascade
from corellarec.data.log import Log
from corellarec.data.splits import SPLITS
from harness import emit, parse, parser
from serve import service

SETTINGS = """
[answer]
deadline_ms = 600000
max_deadline_ms = 600000
[llm]
states_mb = 0
[budget]
share = 1.0
burst = 1000000
"""


def post(port: int, path: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--run", default="runs/quick", help="run whose test rows are replayed")
    options.add_argument("--rows", type=int, default=300, help="the first of them, by time")
    given = parse(options, quick={"rows": 60})
    whole = Cascade.load(given.run, device="cpu")
    recipe, log = whole.recipe, whole.log
    rule = replace(whole.router.rule, threshold=-1e9)
    rule = replace(rule, verdict=replace(rule.verdict, helps=True))
    router = replace(whole.router, rules={**whole.router.rules, whole.router.policy: rule})
    router = replace(router, hard=False)
    recipe = replace(recipe, router=router, llm=recipe.llm.model_copy(update={"dtype": "float32"}))
    test = SPLITS.index("test")
    cut = Log(
        log.rows.filter(pl.col("split") != test),
        log.users,
        log.items,
        log.features,
        log.history,
    )
    rows = (
        log.rows.filter(pl.col("split") == test)
        .with_columns(
            user_id=log.users["id"].gather(log.rows.filter(pl.col("split") == test)["user"]),
            item_id=log.items["id"].gather(log.rows.filter(pl.col("split") == test)["item"]),
        )
        .sort("time", "user", "item")
        .head(given.rows)
    )
    differences: dict[str, list[float]] = {"p": [], "p_crm": [], "p_llm": []}
    with tempfile.TemporaryDirectory() as folder:
        Cascade(recipe, log, whole.models, whole.adapter).save(Path(folder, "whole"))
        Cascade(recipe, cut, whole.models, whole.adapter).save(Path(folder, "cut"))
        asking = Cascade.load(Path(folder, "whole"), device="cpu")
        with service(Path(folder, "cut"), Path(folder), SETTINGS) as (port, _):
            by_moment = groupby(
                rows.iter_rows(named=True), key=lambda row: (row["time"], row["user_id"])
            )
            for (_, user), group in by_moment:
                same = list(group)
                for row in same:
                    body = {"user": user, "candidates": [row["item_id"]]}
                    (found,) = post(port, "/v1/score", body)["candidates"]
                    assert found["reason"] == "asked", found
                    pair = {"user": [user], "item": [row["item_id"]], "time": [row["time"]]}
                    expected = asking.predict(pair)
                    for name, apart in differences.items():
                        apart.append(abs(found[name] - expected[name].item()))
                post(port, "/v1/events", {"events": [event(row, log) for row in same]})
    largest = {name: float(np.max(apart)) for name, apart in differences.items()}
    print(f"{rows.height:,} rows of {rows['user'].n_unique()} users, largest difference:")
    for name, apart in largest.items():
        print(f"{name:6} {apart:.1e}")
    emit(given, {"rows": rows.height, "largest": largest})


def event(row: dict[str, Any], log: Log) -> dict[str, Any]:
    """A row of the log as an event; its rating is the smallest of its level."""
    said = {"label": row["label"]}
    if row["level"] > 1:
        said = {"rating": log.features.ratings[row["level"] - 2]}
    return {
        "event_id": f"{row['user_id']} {row['item_id']} {row['time']}",
        "user": row["user_id"],
        "item": row["item_id"],
        "time": row["time"].isoformat(),
        **said,
    }


if __name__ == "__main__":
    main()
