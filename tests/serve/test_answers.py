"""What the service answers is what the cascade answers, with the store's events in histories."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from services import LISTS, asking, client_of, send_lists, wait_for_llm

from corellarec.base.errors import ConfigError
from corellarec.cascade.cascade import Cascade
from corellarec.serve.asks import LlmAsk
from corellarec.serve.lineup import InService, Lineup
from corellarec.serve.llm import LlmThread
from corellarec.serve.model import ServedModel


def ask(client, user, items, **more):
    body = {"user": user, "candidates": items, **more}
    found = client.post("/v1/score", json=body)
    assert found.status_code == 200, found.text
    return found.json()


def column(answer, name):
    return np.array([row[name] for row in answer["candidates"]], dtype=float)


ITEMS = [str(i) for i in range(1, 50)]


def expected(cascade, user, items, name="p"):
    pairs = pl.DataFrame({"user": [user] * len(items), "item": items})
    # Candidates are scored as of now: a pair that the log holds would be scored as of its row.
    log, _ = cascade._state
    own = set(log.items["id"].gather(log.items_of(log.users["id"].index_of(user))))
    found = cascade.predict(pairs)
    return found[name].to_numpy(), np.array([item not in own for item in items])


def test_the_crm_answers_as_the_cascade_does(make_service, run):
    service = make_service()
    cascade = Cascade.load(run, device="cpu")
    with client_of(service) as client:
        for user in ("1", "17", "40"):
            found = ask(client, user, ITEMS)
            wanted, unseen = expected(cascade, user, ITEMS)
            np.testing.assert_allclose(column(found, "p")[unseen], wanted[unseen], atol=1e-6)
            assert unseen.sum() > 5
            assert {row["reason"] for row in found["candidates"]} == {"llm_off"}
            assert not found["degraded"]


def test_events_change_the_next_answer_as_observing_them_does(make_service, run):
    service = make_service()
    cascade = Cascade.load(run, device="cpu")
    events = [
        {"event_id": f"e{i}", "user": "3", "item": str(i + 1), "rating": 1 + i % 5,
         "time": 900_000_000 + 60 * i} for i in range(12)
    ]  # fmt: skip
    with client_of(service) as client:
        before = ask(client, "3", ITEMS)
        sent = client.post("/v1/events", json={"events": events})
        assert sent.json() == {"accepted": 12, "duplicates": 0}
        again = client.post("/v1/events", json={"events": events[:5]})
        assert again.json() == {"accepted": 0, "duplicates": 5}
        cascade.observe(pl.DataFrame(events).drop("event_id"))
        wanted, unseen = expected(cascade, "3", ITEMS)
        found = ask(client, "3", ITEMS)
        np.testing.assert_allclose(column(found, "p")[unseen], wanted[unseen], atol=1e-6)
        assert np.abs(column(found, "p") - column(before, "p")).max() > 1e-4


def test_late_events_are_sorted_in_by_time(make_service, run):
    service = make_service()
    cascade = Cascade.load(run, device="cpu")
    early = {"event_id": "a", "user": "3", "item": "9", "rating": 5, "time": 1}
    with client_of(service) as client:
        client.post("/v1/events", json={"events": [early]})
        cascade.observe(pl.DataFrame([early]).drop("event_id"))
        wanted, unseen = expected(cascade, "3", ITEMS)
        found = ask(client, "3", ITEMS)
        np.testing.assert_allclose(column(found, "p")[unseen], wanted[unseen], atol=1e-6)


def test_a_history_in_the_request_stands_in_place_of_the_stored_one(make_service):
    service = make_service()
    with client_of(service) as client:
        rows = [{"item": "5", "rating": 5}, {"item": "6", "label": 0}]
        own = ask(client, "nobody", ["7"], history=rows)
        none = ask(client, "nobody", ["7"])
        assert own["candidates"][0]["p"] != none["candidates"][0]["p"]
        for i, row in enumerate(rows):
            event = {"event_id": f"n{i}", "user": "nobody", "time": 1000 + i, **row}
            assert client.post("/v1/events", json={"events": [event]}).status_code == 200
        assert ask(client, "nobody", ["7"])["candidates"][0]["p"] == pytest.approx(
            own["candidates"][0]["p"], abs=1e-6
        )
        assert ask(client, "nobody", ["7"], history=[])["candidates"] == none["candidates"]


def test_the_llm_answers_as_the_cascade_does(make_service, run):
    service = make_service(threshold=-1e9, llm={"states_mb": 0})
    cascade = asking(Cascade.load(run, device="cpu"))
    with client_of(service) as client:
        wait_for_llm(service)
        for user in ("1", "17"):
            found = ask(client, user, ITEMS)
            assert {row["reason"] for row in found["candidates"]} == {"asked"}
            for name in ("p", "p_llm"):
                wanted, unseen = expected(cascade, user, ITEMS, name)
                np.testing.assert_allclose(column(found, name)[unseen], wanted[unseen], atol=1e-5)


@pytest.mark.parametrize("states_mb", [0, 64])
def test_the_llm_reads_ratings_as_the_cascade_does(make_service, run, states_mb):
    service = make_service(threshold=-1e9, llm={"states_mb": states_mb})
    cascade = asking(Cascade.load(run, device="cpu"))
    rows = [{"item": item, "rating": rating} for item, rating in (("3", 5), ("9", 4), ("2", 1))]
    labels = [{"item": row["item"], "label": int(row["rating"] >= 4)} for row in rows]
    events = [{"user": "nobody", "time": 900_000_000 + i, **row} for i, row in enumerate(rows)]
    cascade.observe(pl.DataFrame(events))
    wanted, unseen = expected(cascade, "nobody", ITEMS, "p_llm")
    with client_of(service) as client:
        wait_for_llm(service)
        found = column(ask(client, "nobody", ITEMS, history=rows), "p_llm")
        np.testing.assert_allclose(found[unseen], wanted[unseen], atol=1e-4)
        of_labels = column(ask(client, "nobody", ITEMS, history=labels), "p_llm")
        assert np.abs(of_labels - found).max() > 1e-3


def test_a_model_that_cannot_be_packed_answers_several_requests_at_once(
    make_service, run, monkeypatch
):
    monkeypatch.setattr("corellarec.llm.load.enable_packing", lambda base: False)
    service = make_service(threshold=-1e9, llm={"tokens_per_batch": 100_000})
    cascade = asking(Cascade.load(run, device="cpu"))
    with client_of(service) as client:
        wait_for_llm(service)
        assert service.now.llm._states is None
        with ThreadPoolExecutor(4) as pool:
            users = ("1", "17", "23", "40")
            answers = list(pool.map(lambda user: ask(client, user, ITEMS[:10]), users))
        for user, found in zip(users, answers, strict=True):
            assert {row["reason"] for row in found["candidates"]} == {"asked"}
            wanted, unseen = expected(cascade, user, ITEMS[:10], "p_llm")
            np.testing.assert_allclose(column(found, "p_llm")[unseen], wanted[unseen], atol=1e-4)


def waiting_asks(service, users, held):
    """Asks of a held language model that wait, one for each user, and their answers."""
    llm, model = service.now.llm, service.now.model

    async def ask_all():
        asks = [
            LlmAsk(model, user, service.histories.of(model, user), np.arange(3) + place,
                   time.monotonic() + 20)
            for place, user in enumerate(users)
        ]  # fmt: skip
        assert [llm.submit(one) for one in asks] == [None] * len(asks)
        held(llm)
        return await asyncio.gather(*(one.future for one in asks))

    return asyncio.run(ask_all())


@pytest.fixture
def held(monkeypatch):
    """Holds the language model's first call until it is let go on."""
    go_on, batches = threading.Event(), []

    def hold(service):
        llm = service.now.llm
        own = llm._logits

        def logits(asks):
            batches.append([one.key for one in asks])
            assert go_on.wait(20)
            return own(asks)

        monkeypatch.setattr(llm, "_logits", logits)

    yield SimpleNamespace(hold=hold, go_on=go_on, batches=batches)
    go_on.set()


def test_several_requests_of_one_user_are_answered_in_one_batch(make_service, held, monkeypatch):
    monkeypatch.setattr("corellarec.llm.load.enable_packing", lambda base: False)
    service = make_service(threshold=-1e9, llm={"tokens_per_batch": 100_000})
    wait_for_llm(service)
    held.hold(service)
    found = waiting_asks(service, ["1", "17", "17", "17"], lambda llm: held.go_on.set())
    assert [len(one) for one in found] == [3] * 4  # logits, no error
    assert [key for batch in held.batches for key in batch] == ["1", "17", "17", "17"]
    assert service.now.llm._thread.is_alive()


def test_what_waits_about_an_erased_user_is_not_asked(make_service, held):
    service = make_service(threshold=-1e9)
    wait_for_llm(service)
    held.hold(service)

    def erase(llm):
        while not held.batches:
            time.sleep(0.01)
        llm.forget("17")
        held.go_on.set()

    first, gone, last = waiting_asks(service, ["1", "17", "23"], erase)
    assert gone is None
    assert [len(one) for one in (first, last)] == [3, 3]
    assert held.batches == [["1"], ["23"]]
    assert "17" not in service.now.llm._states.states
    service.now.llm.close(20)
    assert service.now.llm.tokens_waiting == 0


def test_one_event_costs_the_llm_one_line(make_service):
    service = make_service(threshold=-1e9)
    with client_of(service) as client:
        wait_for_llm(service)
        tokens = service.metrics.llm_tokens._value.get
        ask(client, "17", ["7"])
        whole, begun = tokens(), tokens()
        ask(client, "17", ["7"])
        candidate, begun = tokens() - begun, tokens()
        event = {"event_id": "x", "user": "17", "item": "8", "rating": 4}
        client.post("/v1/events", json={"events": [event]})
        ask(client, "17", ["7"])
        line = tokens() - begun - candidate
        states = service.now.llm._states
        item = service.now.model.items["8"]
        assert line == len(states.layout.line(item)) + len(states.layout.end(1))
        assert whole > 3 * (candidate + line)


def test_only_rows_above_the_threshold_are_asked_about(make_service):
    with client_of(make_service(threshold=1e9)) as client:
        rows = ask(client, "17", ITEMS, explain=True)["candidates"]
    values = sorted(row["explanation"]["value"] for row in rows)
    service = make_service(threshold=sum(values[:2]) / 2)
    with client_of(service) as client:
        wait_for_llm(service)
        found = ask(client, "17", ITEMS, explain=True)
        for row in found["candidates"]:
            above = row["explanation"]["value"] > row["explanation"]["threshold"]
            assert row["reason"] == ("asked" if above else "below_threshold")
            assert (row["p_llm"] is not None) == above
            assert row["source"] == ("blend" if above else "crm")
        assert len({row["reason"] for row in found["candidates"]}) == 2


def test_a_request_may_ask_anyway_within_the_budget(make_service, tmp_path):
    decisions = {"directory": str(tmp_path / "decisions"), "explored_share": 0.0}
    budget = {"share": 0.0, "burst": 12}
    service = make_service(threshold=1e9, decisions=decisions, budget=budget)
    with client_of(service) as client:
        wait_for_llm(service)
        plain = ask(client, "17", ITEMS[:4])
        assert {row["reason"] for row in plain["candidates"]} == {"below_threshold"}
        found = ask(client, "17", ITEMS[:4], ask_anyway=True)
        assert {row["reason"] for row in found["candidates"]} == {"asked"}
        assert {row["source"] for row in found["candidates"]} == {"blend"}
        again = ask(client, "18", ITEMS[:12], ask_anyway=True)
        reasons = [row["reason"] for row in again["candidates"]]
        assert (reasons.count("asked"), reasons.count("budget")) == (8, 4)
        service.decisions.write()
    logged = pl.read_parquet(tmp_path / "decisions" / "*" / "*.parquet")
    assert logged.height == 4  # of the request that the router decided


def test_a_row_is_decided_alone(make_service):
    service = make_service(threshold=0.0)
    with client_of(service) as client:
        wait_for_llm(service)
        together = ask(client, "17", ITEMS)["candidates"]
        for row in together[:8]:
            alone = ask(client, "17", [row["item"]])["candidates"][0]
            assert alone["reason"] == row["reason"]
            assert alone["p_crm"] == pytest.approx(row["p_crm"], abs=1e-6)


def test_the_budget_holds_over_requests(make_service):
    service = make_service(threshold=-1e9, budget={"share": 0.25, "burst": 10})
    with client_of(service) as client:
        wait_for_llm(service)
        reasons = [
            row["reason"]
            for user in range(1, 21)
            for row in ask(client, str(user), ITEMS[:5])["candidates"]
        ]
        # The burst, with which a new store begins, and a quarter of the 95 rows behind it.
        assert reasons.count("asked") == 10 + 23
        assert reasons.count("budget") == 67


def test_an_answer_comes_at_its_deadline_whatever_the_llm_does(make_service, monkeypatch):
    service = make_service(threshold=-1e9)
    with client_of(service) as client:
        wait_for_llm(service)
        llm = service.now.llm
        own, goes_on = llm._logits, threading.Event()
        monkeypatch.setattr(llm, "_logits", lambda asks: goes_on.wait(60) and own(asks))
        reasons = []
        for _ in range(12):
            begun = time.monotonic()
            found = ask(client, "17", ["7"], deadline_ms=600)
            assert time.monotonic() - begun < 2
            assert found["degraded"]
            reasons.append(found["candidates"][0]["reason"])
            assert found["candidates"][0]["p"] == found["candidates"][0]["p_crm"]
        goes_on.set()
        assert reasons[0] == "late"
        assert reasons[-1] == "breaker"


@pytest.mark.parametrize("fault", ["nan", "count", "raises"])
def test_wrong_answers_of_the_llm_leave_the_crms(make_service, monkeypatch, fault):
    service = make_service(threshold=-1e9)
    with client_of(service) as client:
        wait_for_llm(service)

        def logits(asks):
            if fault == "raises":
                raise MemoryError
            rows = sum(len(one.items) for one in asks) + (fault == "count")
            return np.full(rows, np.nan if fault == "nan" else 0.5), 10

        monkeypatch.setattr(service.now.llm, "_logits", logits)
        found = ask(client, "17", ["7", "8"])
        assert [row["reason"] for row in found["candidates"]] == ["llm_error"] * 2
        assert [row["source"] for row in found["candidates"]] == ["crm"] * 2
        assert found["degraded"]


def test_a_model_that_cannot_be_loaded_leaves_the_crms_answers(make_service, monkeypatch):
    service = make_service(budget={"share": 1.0})

    def fails():
        raise OSError("no such model")

    model = service.now.model
    asking(model.cascade)
    model.router = model.cascade.router
    monkeypatch.setattr(model.cascade.models, "load_llm", fails)
    service.lineup = Lineup(InService(model, LlmThread(model, service.config.llm)))
    with client_of(service) as client:
        found = ask(client, "17", ["7"])
        assert found["candidates"][0]["reason"] == "llm_not_ready"
        told = client.get("/v1/model").json()
        for _ in range(100):
            if told["llm_error"]:
                break
            time.sleep(0.02)
            told = client.get("/v1/model").json()
        assert told["llm_error"] == "OSError: no such model"
        assert client.get("/readyz").status_code == 200


def test_recommendations_are_the_cascades(make_service, run):
    service = make_service(threshold=-1e9, llm={"states_mb": 0})
    cascade = asking(Cascade.load(run, device="cpu"))
    with client_of(service) as client:
        wait_for_llm(service)
        for user in ("1", "17", "new"):
            found = client.post("/v1/recommend", json={"user": user, "k": 5}).json()
            wanted = cascade.recommend([user], k=5)
            assert [row["item"] for row in found["candidates"]] == wanted["item"].to_list()
            np.testing.assert_allclose(column(found, "p"), wanted["p"], atol=1e-5)


def test_a_list_is_asked_about_as_a_whole_or_not_at_all(make_service):
    """As ``Cascade.recommend`` does it with the same policy; the budget counts rows."""
    budget = {"share": 0.0, "burst": 20}
    service = make_service(llm={"place": "off", "states_mb": 0}, budget=budget)
    cascade = send_lists(service)
    with client_of(service) as client:
        for user, asked in (("1", 8), ("17", 8), ("new", 0)):  # 4 are left for the third
            found = client.post("/v1/recommend", json={"user": user, "k": 12}).json()
            reasons = [row["reason"] for row in found["candidates"]]
            if not asked:
                assert reasons == ["budget"] * 8 + ["below_threshold"] * 4
                continue
            assert reasons == ["asked"] * 8 + ["below_threshold"] * 4
            wanted = cascade.recommend([user], k=12)
            assert [row["item"] for row in found["candidates"]] == wanted["item"].to_list()
            np.testing.assert_allclose(column(found, "p"), wanted["p"], atol=1e-5)
        assert service.bucket.level == 4


def test_a_budget_that_never_holds_a_list_is_refused(make_service, run, tmp_path):
    of = Cascade.load(run, device="cpu")
    recipe = replace(of.recipe, lists=LISTS)
    model = ServedModel(Cascade(recipe, of.log, of.models, of.adapter), "v2")
    service = make_service(1e9, budget={"burst": 7}, load=lambda path: model)
    with pytest.raises(ConfigError, match=r"budget\.burst is 7, and .* lists of 8 rows"):
        service.load(tmp_path, "live", 0.0)
    assert service.now.model.version == "v1"


def test_recommendations_can_be_filtered(make_service):
    service = make_service()
    with client_of(service) as client:

        def items(**more):
            found = client.post("/v1/recommend", json={"user": "1", "k": 50, **more})
            assert found.status_code == 200, found.text
            return [row["item"] for row in found.json()["candidates"]]

        log = service.now.model.log
        seen = set(log.items["id"].gather(log.items_of(0)))
        assert not seen & set(items())
        assert seen & set(items(exclude_seen=False))
        assert items(candidates=["4", "5"], exclude_seen=False, exclude=["5"]) == ["4"]
        comedies = set(log.items.filter(pl.col("genres").list.contains("Comedy"))["id"])
        assert set(items(where={"genres": "Comedy"}, exclude_seen=False)) == comedies
        wrong = client.post("/v1/recommend", json={"user": "1", "where": {"colour": "red"}})
        assert wrong.status_code == 422
        assert "genres" in wrong.json()["detail"]
        event = {"event_id": "r", "user": "1", "item": items()[0], "label": 1}
        client.post("/v1/events", json={"events": [event]})
        assert event["item"] not in items()
