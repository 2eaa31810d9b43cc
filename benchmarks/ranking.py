"""NDCG, recall and others of our item-kNN and EASE, and of RecBole's, on the same split.

Positive rows of a log, cut 80 / 10 / 10 by time within each user, and every item ranked for every
user but those of training and validation: the split is written for RecBole, which fits and
measures in an environment of its own (`recbole_peer.py` says how to make it). Of neighbours that
are equally near some are cut off by chance, that is by the order of the items: `ties` is how far
our figures go over ten orders.

    python benchmarks/ranking.py [--peer-python PYTHON] [--data PATH] [--quick] [--json]
"""

import json
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
from scipy.sparse import csr_array

from corellarec.base.list_metrics import list_metrics
from corellarec.base.metrics import Floats
from corellarec.crm.retrievers.ease import ease
from corellarec.crm.retrievers.item_knn import item_knn
from corellarec.data.log import Log
from harness import emit, parse, parser
from logs import add_data_option, data_settings, prepared_log

MODELS = {
    "EASE, penalty 250": ("EASE", {"reg_weight": 250.0}),
    "EASE, penalty 1000": ("EASE", {"reg_weight": 1000.0}),
    "item-kNN, all neighbours": ("ItemKNN", {"k": 10**6, "shrink": 0.0, "knn_method": "item"}),
    "item-kNN, 100": ("ItemKNN", {"k": 100, "shrink": 0.0, "knn_method": "item"}),
    "item-kNN, 50, shrink 10": ("ItemKNN", {"k": 50, "shrink": 10.0, "knn_method": "item"}),
}
NAMES = {"ndcg": "ndcg", "recall": "recall", "hit": "hit_rate", "mrr": "mrr", "map": "map"}
TOP = (10, 20)


def split_positives(log: Log, users: int) -> pl.DataFrame:
    """``user``, ``item`` and ``part`` (0 to 2) of the positive rows of the first users."""
    rows = log.rows.filter(pl.col("label") == 1, pl.col("user") < users)
    rows = rows.unique(["user", "item"], keep="first", maintain_order=True)
    place = pl.int_range(pl.len()).over("user") / pl.len().over("user")
    return rows.select("user", "item", part=(place >= 0.8).cast(int) + (place >= 0.9).cast(int))


def weights_of(model: str, settings: dict, train: csr_array) -> csr_array | Floats:
    """What our retriever learns."""
    if model == "EASE":
        return ease(train, settings["reg_weight"])
    return item_knn(train, settings["k"], settings["shrink"])


def matrix(rows: pl.DataFrame, shape: tuple[int, int]) -> csr_array:
    """``(users, items)`` of 0 and 1."""
    return csr_array((np.ones(rows.height), (rows["user"], rows["item"])), shape=shape)


def ours(rows: pl.DataFrame, shape: tuple[int, int]) -> dict[str, dict[str, float]]:
    """Metrics of each model, with RecBole's names."""
    parts = [matrix(rows.filter(pl.col("part") == part), shape) for part in range(3)]
    train, valid, test = parts
    relevant = test.toarray() > 0
    some = relevant.any(1)
    found = {}
    for name, (model, settings) in MODELS.items():
        start = time.perf_counter()
        scores = train @ weights_of(model, settings, train)
        scores = scores.toarray() if isinstance(scores, csr_array) else scores
        scores[(train + valid).toarray() > 0] = -np.inf
        best = np.argsort(-scores, axis=1, kind="stable")[:, : max(TOP)]
        hit = np.take_along_axis(relevant, best, 1)[some]
        count = relevant[some].sum(1)
        found[name] = {
            f"{theirs}@{k}": float(list_metrics(hit, count, k)[name].mean())
            for k in TOP
            for theirs, name in NAMES.items()
        }
        found[name]["seconds"] = time.perf_counter() - start
    return found


def ties(rows: pl.DataFrame, shape: tuple[int, int], orders: int) -> dict[str, float]:
    """The range of any of our metrics of each model over random orders of the items."""
    found: list[dict[str, dict[str, float]]] = []
    for seed in range(orders):
        number = np.random.default_rng(seed).permutation(shape[1])
        found.append(ours(rows.with_columns(item=pl.Series(number[rows["item"]])), shape))
    return {
        name: max(
            float(np.ptp([one[name][f"{metric}@{k}"] for one in found]))
            for metric in NAMES
            for k in TOP
        )
        for name in MODELS
    }


def recbole(rows: pl.DataFrame, python: str) -> dict[str, dict[str, float]]:
    """The same of RecBole, in its environment."""
    peer = Path(__file__).with_name("recbole_peer.py")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "log"
        data.mkdir()
        for part, name in enumerate(("train", "valid", "test")):
            table = rows.filter(pl.col("part") == part).select(
                pl.col("user").alias("user_id:token"), pl.col("item").alias("item_id:token")
            )
            table.write_csv(data / f"log.{name}.inter", separator="\t")
        done = subprocess.run(
            [python, str(peer), folder, json.dumps(MODELS)],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"RecBole failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--peer-python", help="the Python of an environment with RecBole 1.2.1")
    options.add_argument("--users", type=int, default=10**9, help="the first so many users")
    options.add_argument("--orders", type=int, default=10, help="orders of the items")
    add_data_option(options)
    given = parse(options, quick={"users": 300, "orders": 2})
    _, log = prepared_log(data_settings(given))
    rows = split_positives(log, given.users)
    rows = rows.with_columns(pl.col("item").rank("dense").cast(int) - 1)
    shape = (int(rows["user"].max()) + 1, int(rows["item"].max()) + 1)  # pyright: ignore
    found = {"ours": ours(rows, shape)}
    if given.peer_python:
        found["recbole"] = recbole(rows, given.peer_python)
    spread = ties(rows, shape, given.orders)
    print(f"{rows.height:,} positive rows of {shape[0]:,} users, {shape[1]:,} items")
    print(f"{'':26}{'':>9}{'NDCG@10':>10}{'Recall@20':>11}{'MAP@10':>10}{'ties':>10}")
    gaps = {}
    for name in MODELS:
        for who, figures in found.items():
            cells = (f"{figures[name][m]:10.6f}" for m in ("ndcg@10", "recall@20", "map@10"))
            print(f"{name:26}{who:>9}{' '.join(cells)}{spread[name]:11.1e}")
        if "recbole" in found:
            theirs = found["recbole"][name]
            gaps[name] = max(abs(found["ours"][name][m] - value) for m, value in theirs.items())
            print(f"{'':26}{'':>9} largest difference of any metric: {gaps[name]:.1e}")
    ratio = None
    if "recbole" in found:
        name = next(iter(MODELS))
        ratio = found["ours"][name]["ndcg@10"] / found["recbole"][name]["ndcg@10"]
    figures = {**found, "ties": spread, "largest_difference": gaps}
    emit(given, figures, ratio=ratio, ratio_of="NDCG@10 of EASE, ours over RecBole's")


if __name__ == "__main__":
    main()
