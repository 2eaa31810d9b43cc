"""Logs without ratings: from ``init-data`` to ``report.html`` without editing a file."""

import json
import math

import numpy as np
import polars as pl
import pytest
import torch

from command_line import call, options
from corellarec.cascade.cascade import Cascade
from corellarec.cascade.ranking import promising
from corellarec.config import load_config
from corellarec.data.log import Log

USERS, ITEMS, ROWS = 30, 40, 500
SMALL = [
    "stage1.epochs=1",
    *(f"stage{n}.{one}" for n in "23" for one in ("rows=40", "validation_rows=30")),
    *("stage2.evaluations=1", "stage3.evaluations=1"),
    "evaluate.bootstrap=20",
    "evaluate.test_rows=80",
    "cascade.validation_rows=80",
]


def write_log(folder, kind):
    """A log of one kind, with titles in a table of their own; popular items come often."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    item = (ITEMS * generator.random(ROWS) ** 2).astype(int)
    when = 1_600_000_000 + 60 * np.sort(generator.integers(0, 400_000, ROWS))
    who = generator.integers(0, USERS, ROWS)
    columns = {"item_id": [f"p{i}" for i in item], "timestamp": when}
    if kind == "sessions":  # of four events, in minutes
        place = np.arange(ROWS) // 4
        columns["timestamp"] = when[4 * place] + 30 * (np.arange(ROWS) % 4)
        columns = {"session_id": [f"s{n}" for n in place], **columns}
    else:
        columns = {"customer_id": [f"c{n}" for n in who], **columns}
    if kind == "purchases":
        columns["quantity"] = generator.integers(1, 4, ROWS)
    if kind == "impressions":
        columns["clicked"] = generator.integers(0, 2, ROWS)
    if kind == "events":
        columns["timestamp"] = pl.from_epoch(pl.Series(when)).cast(pl.String)  # of no zone
        columns["event_type"] = generator.choice(["view", "add_to_cart", "purchase"], ROWS)
    pl.DataFrame(columns).write_csv(folder / "log.csv")
    titles = [f"Thing number {i}" for i in range(ITEMS)]
    items = {"item_id": [f"p{i}" for i in range(ITEMS)], "title": titles}
    pl.DataFrame(items).write_csv(folder / "products.csv")
    return folder


@pytest.mark.parametrize("kind", ["purchases", "impressions", "sessions", "events"])
def test_init_data_tells_what_a_log_is(monkeypatch, capsys, tmp_path, kind):
    folder, toml = write_log(tmp_path / kind, kind), tmp_path / "mine.toml"
    code, _, err = call(monkeypatch, capsys, "init-data", folder, "-o", toml)
    assert code == 0, err
    data = load_config(files=[toml]).data
    drawn = kind != "impressions"
    assert (data.interactions.label == "implicit") == data.is_implicit == drawn
    assert ("negatives are drawn" in err) == drawn
    assert f"text: the template {'items-taken' if drawn else 'items-liked'}" in err
    if kind == "events":
        assert data.interactions.event == "event_type"
        assert data.interactions.event_weights == {"view": 1, "add_to_cart": 3, "purchase": 5}
    if kind == "sessions":
        assert data.interactions.user == "session_id"
    code, out, err = call(monkeypatch, capsys, "data", "check", "--config", toml)
    assert code == 0, err
    assert ("1 positive to 4 drawn negatives by popularity, seed 0" in out) == drawn


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("purchases", marks=pytest.mark.slow),
        pytest.param("impressions", marks=pytest.mark.slow),
        "sessions",
        "events",
    ],
)
def test_from_init_data_to_a_report(tiny_settings, monkeypatch, capsys, tmp_path, kind):
    folder, toml, run = write_log(tmp_path / kind, kind), tmp_path / "mine.toml", tmp_path / "run"
    call(monkeypatch, capsys, "init-data", folder, "-o", toml)
    drawn = kind != "impressions"
    own = [one for one in tiny_settings if not one.startswith("data.")]
    crm = ["crm.model=stream", "crm.stream.width=8"] if kind in ("purchases", "sessions") else []
    zone = ["data.interactions.time_zone=Asia/Tokyo"] if kind == "events" else []
    code, out, err = call(monkeypatch, capsys, "run", "--config", toml, "--out", run, "--json",
                          *options([*own, *SMALL, *crm, *zone]))  # fmt: skip
    assert code == 0, err
    assert Cascade.load(run).recipe.time_zone == ("Asia/Tokyo" if zone else None)
    report = (run / "report.html").read_text("utf-8")
    assert ("drawn negatives by popularity, seed 0" in report) == drawn
    assert ("drawn negatives" in json.loads(out)["data"]["negatives"]) == drawn
    check_answers(run, drawn)
    later, pairs = tmp_path / "later.csv", tmp_path / "pairs.csv"
    user = Log.load(run / "data").users["id"][0]
    later.write_text(f"user,item\n{user},p1\n")
    pairs.write_text(f"user,item\n{user},p2\n")
    code, _, err = call(monkeypatch, capsys, "predict", run, pairs, "-o", tmp_path / "out.csv",
                        "--events", later)  # fmt: skip
    assert code == (0 if drawn else 2)
    assert ("1 new interactions" if drawn else "no column 'customer_id'") in err
    if kind == "events":
        assert set(Log.load(run / "data").rows["weight"].unique()) == {1.0, 3.0, 5.0}
    if kind == "sessions":
        parts = json.loads(out)["data"]["splits"]
        assert parts["test"]["cold_user_rows"] == parts["test"]["rows"]


def check_answers(run, drawn):
    """What a cascade says of pairs and in which order it recommends."""
    cascade = Cascade.load(run)
    user = cascade.log.users["id"][0]
    top = cascade.recommend([user], k=5, exclude_seen=False)
    assert ("p_next" in top.columns) == drawn
    scored = cascade.predict({"user": [user] * ITEMS, "item": [f"p{i}" for i in range(ITEMS)]})
    if not drawn:
        assert top["p"].is_sorted(descending=True)
        assert "p_next" not in scored.columns
        return
    assert top["p_next"].is_sorted(descending=True)
    row = top.row(0, named=True)
    number = cascade.log.items["id"].index_of(row["item"])
    q = math.exp(cascade.log.log_q[number])
    assert row["p_next"] == pytest.approx(min(1, 4 * q * row["p"] / (1 - row["p"])))
    counts = cascade.log.item_train_rows.numpy()
    assert q == pytest.approx((counts[number] + 1) / (counts + 1).sum())
    assert "p_next" in scored.columns
    seen = set(cascade.log.items["id"].gather(cascade.log.items_of(0)))
    rest = set(cascade.recommend([user], k=ITEMS)["item"])
    assert rest.isdisjoint(seen)
    assert len(rest) == ITEMS - len(seen)
    # What is observed needs no label.
    assert cascade.observe({"user": [user], "item": ["p1"], "time": ["2024-05-01"]}) == 1
    assert cascade.log._label[cascade.log.user == 0][-1] == 1


def test_popularity_counts_in_rankings_where_negatives_are_drawn_by_it(
    tiny_settings, monkeypatch, capsys, tmp_path
):
    """A CRM that says the same of all items then ranks by popularity; drawn evenly, by nothing."""
    folder, toml = write_log(tmp_path / "log", "purchases"), tmp_path / "mine.toml"
    call(monkeypatch, capsys, "init-data", folder, "-o", toml)
    for by in ("popularity", "uniform"):
        directory = tmp_path / by
        code, _, err = call(monkeypatch, capsys, "prepare", "--config", toml, "--out", directory,
                            *options([f"data.negatives.by={by}"]))  # fmt: skip
        assert code == 0, err
        log = Log.load(directory / "data")

        class Router:
            crm = staticmethod(lambda logit: logit)

        head = promising(
            log, lambda samples: np.zeros(len(samples)), Router(), torch.tensor([0]),
            torch.arange(log.items.height), 50, exclude_seen=False,
        )  # fmt: skip
        counts = log.item_train_rows[head.samples.item]
        assert (counts.diff() <= 0).all() == (by == "popularity")
