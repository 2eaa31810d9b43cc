"""The log of decisions, and what can be told from it."""

import hashlib
import json
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from services import client_of, send_lists, wait_for_llm

from command_line import call
from corellarec.base.errors import DataError
from corellarec.base.metrics import losses
from corellarec.serve.decisions import SCHEMA, DecisionLog
from corellarec.serve.estimate import estimate, gains_of, lists_of
from corellarec.serve.settings import DecisionSettings
from corellarec.serve.store import Store

ITEMS = [str(i) for i in range(1, 50)]


def read(folder):
    return pl.concat([pl.read_parquet(path) for path in sorted(folder.glob("*/*.parquet"))])


def ask(client, user, items):
    found = client.post("/v1/score", json={"user": user, "candidates": items})
    assert found.status_code == 200, found.text
    return found.json()


def test_each_row_is_logged_as_it_was_decided(make_service, middle, tmp_path):
    folder = tmp_path / "log"
    service = make_service(
        threshold=middle,
        budget={"share": 1.0},
        decisions={"directory": str(folder), "explored_share": 0.3},
    )
    with client_of(service) as client:
        wait_for_llm(service)
        answers = {str(u): ask(client, str(u), ITEMS)["candidates"] for u in range(1, 9)}
    log = read(folder)
    assert dict(log.schema) == SCHEMA
    assert log.height == 8 * len(ITEMS)
    served = {(user, row["item"]): row for user, rows in answers.items() for row in rows}
    assert not set(log["user"]) & set(answers)  # hashes
    users = dict(zip(log["user"].unique(maintain_order=True), answers, strict=True))
    flipped = 0
    for row in log.iter_rows(named=True):
        answer = served[users[row["user"]], row["item"]]
        above = row["value"] > row["threshold"]
        flipped += above != row["asked"]
        assert row["propensity"] == pytest.approx(0.7 if above == row["asked"] else 0.3)
        assert row["reason"] == answer["reason"]
        assert (row["p"], row["p_llm"]) == (answer["p"], answer["p_llm"])
        if row["asked"]:
            assert row["reason"] == ("asked" if row["eligible"] else "budget")
        elif above:
            assert row["reason"] == "explored"
    assert 0.2 < flipped / log.height < 0.4
    assert len(set(log["reason"])) == 3


def test_which_rows_are_explored_depends_on_the_key_and_the_row_alone(tmp_path):
    settings = DecisionSettings(directory=str(tmp_path), explored_share=0.1)
    one, same = DecisionLog(settings, "a" * 64, ""), DecisionLog(settings, "a" * 64, "")
    other = DecisionLog(settings, "b" * 64, "")
    ids = [str(i) for i in range(2000)]
    found = one.explored("request", "user", ids)
    assert (found == same.explored("request", "user", ids)).all()
    assert (found != other.explored("request", "user", ids)).any()
    assert (found != one.explored("next", "user", ids)).any()
    assert 0.07 < found.mean() < 0.13
    assert found[7] == one.explored("request", "user", ids[7:8])[0]


def test_old_days_are_deleted_and_users_erased(make_service, tmp_path):
    folder = tmp_path / "log"
    service = make_service(threshold=0.0, decisions={"directory": str(folder), "days_kept": 3})
    old = folder / f"{datetime.now(UTC) - timedelta(days=5):%Y-%m-%d}"
    old.mkdir(parents=True)
    (old / "1.parquet").write_text("")
    with client_of(service) as client:
        wait_for_llm(service)
        ask(client, "1", ITEMS[:3])
        service.decisions.write()
        ask(client, "2", ITEMS[:3])
        assert read(folder).height == 3
        assert not old.exists()
        assert client.delete("/v1/users/1").status_code == 200
        assert read(folder).height == 3
        assert read(folder)["user"].n_unique() == 1
    assert read(folder).height == 3


def simulated(seed, users, explored=0.1, gain=0.05):
    """Rows of users whose asking saves a loss, and the mean saved in truth."""
    chance = np.random.default_rng(seed)
    count = chance.integers(1, 40, users)
    user = np.repeat(np.arange(users), count)
    taste = np.repeat(chance.normal(scale=0.7, size=users), count)
    crm = taste + chance.normal(size=len(user))
    hidden = chance.normal(size=len(user))
    label = (chance.random(len(user)) < 1 / (1 + np.exp(-crm - hidden))).astype(np.int8)
    p_crm = 1 / (1 + np.exp(-crm * 0.9))
    p_asked = 1 / (1 + np.exp(-crm * 0.95 - gain * 10 * hidden))
    value = np.full(len(user), gain) + 0.02 * chance.normal(size=len(user))
    above = value > gain
    flip = chance.random(len(user)) < explored
    asked = above ^ flip
    rows = pl.DataFrame(
        {
            "user": user,
            "label": label,
            "p_crm": p_crm,
            "value": value,
            "threshold": np.full(len(user), gain),
            "asked": asked,
            "propensity": np.where(flip, explored, 1 - explored),
            "p": np.where(asked, p_asked, p_crm),
        }
    )
    return rows, (losses(label, p_crm) - losses(label, p_asked))[above].mean()


def test_intervals_hold_the_true_gain():
    truth = float(np.mean([simulated(10_000 + i, 2000)[1] for i in range(20)]))
    held = dict.fromkeys(("inverse_propensity", "doubly_robust", "paired"), 0)
    for seed in range(100):
        found = gains_of(simulated(seed, 200)[0])
        for name in held:
            gain = getattr(found, name)
            assert gain.low < gain.value < gain.high
            held[name] += gain.low <= truth <= gain.high
    assert truth > 0.03
    assert all(88 <= count <= 100 for count in held.values()), held


def test_too_few_rows_are_refused():
    rows, _ = simulated(1, 200)
    with pytest.raises(DataError, match="too few to tell"):
        gains_of(rows.filter(pl.col("user") < 5))
    with pytest.raises(DataError, match="too few to tell"):
        gains_of(rows.filter(pl.col("asked")))


def test_labels_come_from_later_events(make_service, middle, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "log"
    service = make_service(
        threshold=middle,
        budget={"share": 1.0, "burst": 100_000},
        decisions={"directory": str(folder), "explored_share": 0.3},
    )
    with client_of(service) as client:
        wait_for_llm(service)
        warm = {"event_id": "before", "user": "1", "item": "1", "rating": 5}
        client.post("/v1/events", json={"events": [warm]})
        for user in range(1, 31):
            ask(client, str(user), ITEMS[:20])
        time.sleep(0.01)
        events = [
            {"event_id": f"{u}-{i}", "user": str(u), "item": str(i),
             "rating": 1 + int(hashlib.md5(f"{u} {i}".encode()).hexdigest(), 16) % 5}
            for u in range(1, 31) for i in range(1, 16)
        ]  # fmt: skip
        client.post("/v1/events", json={"events": events})
        place = service.store.place
    found = estimate(folder)
    assert found.gains.rows + round(found.over_budget * 450) == 450
    assert found.unlabelled == pytest.approx(0.25)
    assert found.gains.users == 30
    assert found.answered == 1.0
    assert estimate(folder, place) == found
    code, out, err = call(monkeypatch, capsys, "estimate", folder)
    assert code == 0, err
    assert "paired" in out
    assert "labelled rows of 30 users" in err
    code, out, _ = call(monkeypatch, capsys, "estimate", folder, "--json")
    assert json.loads(out)["gains"]["users"] == 30
    with pytest.raises(DataError, match="no list was decided as a whole"):
        estimate(folder, lists=True)
    late = Store(str(tmp_path / "empty.sqlite"))
    late.close()
    with pytest.raises(DataError, match="too few"):
        estimate(folder, str(tmp_path / "empty.sqlite"))


def test_lists_are_logged_as_a_whole_and_estimated(make_service, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "log"
    service = make_service(
        llm={"place": "off", "states_mb": 0},
        budget={"share": 1.0, "burst": 1000},
        decisions={"directory": str(folder), "explored_share": 0.3},
    )
    send_lists(service)
    served = {}
    with client_of(service) as client:
        for user in map(str, range(1, 41)):
            same = {"X-Request-ID": f"{int(user) % 7}"}
            found = client.post("/v1/recommend", json={"user": user, "k": 8}, headers=same).json()
            served[user] = [row["item"] for row in found["candidates"]]
        time.sleep(0.01)
        taken = {user: items[int(user) % 3] for user, items in served.items() if int(user) % 4}
        events = [
            {"event_id": user, "user": user, "item": item, "rating": 5}
            for user, item in taken.items()
        ]
        client.post("/v1/events", json={"events": events})
    log = read(folder)
    assert dict(log.schema) == SCHEMA
    explored, ndcg = 0, {"place": [], "position": []}
    for (user, items), (_, rows) in zip(
        served.items(), log.group_by("user", maintain_order=True), strict=True
    ):
        assert rows["position"].to_list() == list(range(rows.height))
        assert rows.sort("place")["item"].to_list()[:8] == items
        assert rows["asked"].n_unique() == rows["propensity"].n_unique() == 1
        assert rows["propensity"][0] == pytest.approx(0.7 if rows["asked"][0] else 0.3)
        if not rows["asked"][0]:
            explored += 1
            assert (rows["place"] == rows["position"]).all()
            assert set(rows["reason"][:8]) == {"explored"}
        elif user in taken:
            hit = rows.filter(pl.col("item") == taken[user])
            for name, found in ndcg.items():
                found.append(1 / np.log2(2 + hit[name][0]))
    assert 3 < explored < 25
    found = estimate(folder, lists=True)
    assert found.gains.rows == found.gains.users == len(taken)
    assert found.gains.above == 1.0
    assert found.unlabelled == pytest.approx(0.25)
    expected = np.mean(ndcg["place"]) - np.mean(ndcg["position"])
    assert found.gains.paired.value == pytest.approx(expected, abs=1e-9)
    assert expected != 0
    code, out, err = call(monkeypatch, capsys, "estimate", folder, "--lists")
    assert code == 0, err
    assert "NDCG@10" in out
    assert "labelled lists of 30 users" in err
    with pytest.raises(DataError, match="0 labelled rows or lists"):
        estimate(folder)


def simulated_lists(seed, users, explored=0.1):
    """Labelled rows of lists of eight, in which asking brings the item that is taken forward."""
    chance = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), chance.integers(1, 6, users))
    hit = np.arange(8) == chance.integers(8, size=(len(user), 1))
    asked = chance.random(len(user)) >= explored
    moved = chance.normal(size=hit.shape) + 2.0 * hit
    score = -np.arange(8.0) + asked[:, None] * moved
    rows = pl.DataFrame(
        {
            "request_id": np.repeat(np.arange(len(user)), 8),
            "user": np.repeat(user, 8),
            "time": np.repeat(np.arange(len(user)), 8),
            "position": np.tile(np.arange(8), len(user)),
            "place": np.argsort(np.argsort(-score, 1), 1).ravel(),
            "label": hit.ravel().astype(int),
            "asked": np.repeat(asked, 8),
            "propensity": np.repeat(np.where(asked, 1 - explored, explored), 8),
        }
    )
    return lists_of(rows.with_columns(value=0.1, threshold=0.0))


def test_intervals_hold_the_gain_of_lists():
    many = simulated_lists(0, 3000, 0.5).filter(pl.col("asked"))
    truth = float((many["ndcg"] - many["ndcg_crm"]).mean())
    assert truth > 0.05
    held = dict.fromkeys(("inverse_propensity", "doubly_robust", "paired"), 0)
    for seed in range(1, 41):
        found = gains_of(simulated_lists(seed, 100))
        for name in held:
            gain = getattr(found, name)
            held[name] += gain.low <= truth <= gain.high
    assert all(count >= 34 for count in held.values()), held
