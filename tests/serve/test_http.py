"""The routes over HTTP: keys, limits, errors, what is added and erased, what is told and logged."""

import http.client
import json
import math
import re
import threading
import time
from contextlib import contextmanager
from http import HTTPStatus
from urllib.parse import quote

import httpx
import polars as pl
import pytest
import uvicorn
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from services import client_of

from corellarec.serve.app import build_app
from corellarec.serve.keys import SCOPES, make_key, read_keys

HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'",
}
SCORE = {"user": "1", "candidates": ["7", "8"]}
EVENT = {"event_id": "e", "user": "1", "item": "7", "label": 1}
ROUTES = [
    ("GET", "/livez", None, None),
    ("GET", "/readyz", None, None),
    ("GET", "/docs", None, None),
    ("GET", "/openapi.json", None, None),
    ("GET", "/metrics", None, "admin"),
    ("GET", "/v1/model", None, "score"),
    ("POST", "/v1/score", SCORE, "score"),
    ("POST", "/v1/recommend", {"user": "1", "k": 3}, "score"),
    ("POST", "/v1/events", {"events": [EVENT]}, "events"),
    ("PUT", "/v1/items/9001", {"title": "A new one"}, "events"),
    ("PUT", "/v1/users/9001", {"attributes": {"age": "31"}}, "events"),
    ("DELETE", "/v1/users/9001", None, "events"),
    ("GET", "/v1/admin/models", None, "admin"),
    ("POST", "/v1/admin/models", {"path": "/nowhere", "mode": "live"}, "admin"),
    ("POST", "/v1/admin/rollback", None, "admin"),
]
REFUSED = {"POST /v1/admin/models": 422, "POST /v1/admin/rollback": 409}  # all others: 200
CLOSED = [route for route in ROUTES if route[3]]
WITH_BODY = [route for route in ROUTES if route[2]]


def name_of(route):
    return f"{route[0]} {route[1]}" if isinstance(route, tuple) else None


def problem(found, status, *words):
    """Check that an answer is a problem, as RFC 9457 has it; returns its detail."""
    assert found.status_code == status, found.text
    assert found.headers["content-type"] == "application/problem+json"
    told = found.json()
    assert told == {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": told["detail"],
        "request_id": found.headers["x-request-id"],
    }
    for word in words:
        assert word in told["detail"]
    assert "\n" not in told["detail"]
    return told["detail"]


def passes(found, route):
    """Whether an answer is the one of a caller who may ask."""
    return found.status_code == REFUSED.get(f"{route[0]} {route[1]}", 200)


def send(client, route, **more):
    method, path, body, _ = route
    return client.request(method, path, json=body, **more)


def score(client, user, *items, **more):
    found = client.post("/v1/score", json={"user": user, "candidates": list(items), **more})
    assert found.status_code == 200, found.text
    return found.json()["candidates"]


def recommended(client, user, **more):
    found = client.post("/v1/recommend", json={"user": user, "k": 100, **more})
    assert found.status_code == 200, found.text
    return [row["item"] for row in found.json()["candidates"]]


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def client(make_service):
    with client_of(make_service()) as made:
        yield made


@contextmanager
def listening(service, keys=()):
    """The service on a port of loopback; yields the address."""
    config = uvicorn.Config(build_app(service, keys), port=0, log_config=None, access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield "http://{}:{}".format(*server.servers[0].sockets[0].getsockname())
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def half_sent(address, path="/v1/score", method="POST", body=b"{"):
    """A connection on which a body's first byte was sent, and nine more were promised."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=20)
    connection.putrequest(method, path)
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", "10")
    connection.endheaders(body)
    try:
        yield connection
    finally:
        connection.close()


# Every answer.


@pytest.mark.parametrize("route", ROUTES, ids=name_of)
def test_every_answer_has_the_same_headers(client, route):
    found = send(client, route)
    assert passes(found, route), found.text
    wrong = client.request("PATCH", route[1])
    for answer in (found, wrong):
        assert HEADERS.items() <= dict(answer.headers).items()
        assert "server" not in answer.headers
        assert re.fullmatch("[0-9a-f]{16}", answer.headers["x-request-id"])
    problem(wrong, 405)


def test_a_request_id_is_echoed_where_it_is_plain(client):
    for plain in ("a", "3f2504e0-4f89-11d3:9a.0_c", "x" * 64):
        found = client.post("/v1/score", json=SCORE, headers={"X-Request-Id": plain})
        assert found.headers["x-request-id"] == found.json()["request_id"] == plain
        problem(client.get("/nowhere", headers={"X-Request-Id": plain}), 404)
    for odd in ("", "x" * 65, "a b", "a;b", "<script>", "a\tb"):
        found = client.get("/livez", headers={"X-Request-Id": odd})
        assert re.fullmatch("[0-9a-f]{16}", found.headers["x-request-id"])


def test_a_request_id_reads_nothing_back(client):
    """No route takes the id of an earlier request."""
    mine = client.post("/v1/score", json=SCORE, headers={"X-Request-Id": "mine"})
    assert mine.status_code == 200
    document = client.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        assert "request" not in path
        for route in methods.values():
            assert {one["name"] for one in route.get("parameters", [])} <= {"id"}
    for name, schema in document["components"]["schemas"].items():
        if "Request" in name or name.startswith("Put"):
            assert "request_id" not in schema.get("properties", {})
    for path in ("/v1/requests/mine", "/v1/score/mine", "/v1/decisions/mine"):
        problem(client.get(path), 404)
    problem(client.get("/v1/score?request_id=mine"), 405)
    other = client.post("/v1/score", json={**SCORE, "user": "2"}, headers={"X-Request-Id": "mine"})
    assert other.json()["candidates"] != mine.json()["candidates"]


# Keys.


def test_each_route_needs_its_scope(make_service, tmp_path):
    keys = {scope: make_key(tmp_path / "keys.json", scope, [scope]) for scope in SCOPES}
    keys["all"] = make_key(tmp_path / "keys.json", "all", SCOPES)
    with client_of(make_service(), read_keys(tmp_path / "keys.json")) as client:
        for route in ROUTES:
            needed, where = route[3], name_of(route)
            if needed is None:
                assert passes(send(client, route), route), where
                continue
            for headers in (
                {},
                bearer("clr_" + "A" * 43),
                bearer(""),
                bearer(keys["all"] + "x"),
                {"Authorization": keys["all"]},
                {"Authorization": "Basic " + keys["all"]},
                {"Authorization": "Bearer \xff".encode("latin-1")},
            ):
                refused = send(client, route, headers=headers)
                problem(refused, 401, "Authorization: Bearer")
                assert refused.headers["www-authenticate"] == "Bearer"
            for scope in SCOPES:
                found = send(client, route, headers=bearer(keys[scope]))
                if scope == needed:
                    assert passes(found, route), (where, found.text)
                else:
                    assert needed in problem(found, 403)
            assert passes(send(client, route, headers=bearer(keys["all"])), route)
        problem(client.get("/nowhere"), 401)  # whether a route exists is not told


def test_a_refused_request_changes_nothing(make_service, tmp_path):
    key = make_key(tmp_path / "keys.json", "reader", ["score"])
    service = make_service()
    with client_of(service, read_keys(tmp_path / "keys.json")) as client:
        for route in CLOSED:
            send(client, route)
            send(client, route, headers=bearer(key))
        assert service.store.events_of("1", 10) == []
        assert service.store.entities("item") == service.store.entities("user") == []
        assert service.store.erased() == {}


def test_a_new_item_in_a_request_needs_the_scope_of_events(make_service, tmp_path):
    reader = make_key(tmp_path / "keys.json", "reader", ["score"])
    both = make_key(tmp_path / "keys.json", "both", ["score", "events"])
    body = {"user": "1", "candidates": [{"id": "n1", "title": "New"}, "7"]}
    with client_of(make_service(), read_keys(tmp_path / "keys.json")) as client:
        refused = client.post("/v1/score", json=body, headers=bearer(reader))
        problem(refused, 403, "events")
        assert client.post("/v1/score", json=body, headers=bearer(both)).status_code == 200
        assert client.post("/v1/score", json=body, headers=bearer(reader)).status_code == 200


# Requests that are wrong.


@pytest.mark.parametrize("route", WITH_BODY, ids=name_of)
def test_bodies_that_are_wrong(client, route):
    method, path, body, _ = route

    def sent(content, kind="application/json"):
        return client.request(method, path, content=content, headers={"content-type": kind})

    deep = b'{"user":' + b"[" * 100_000
    for text in (b"{", b"nonsense", b"\xff\xfe", deep, b"1" * 5000):
        problem(sent(text), 400)
    for text in (b"", b"[]", b"null", b"1", b'"a"'):
        problem(sent(text), 422)
    problem(sent(json.dumps({**body, "unknown": 1}).encode()), 422, "unknown", "Extra inputs")
    needed = next((one for one in ("user", "events", "title", "path") if one in body), None)
    if needed:
        fewer = {name: value for name, value in body.items() if name != needed}
        problem(sent(json.dumps(fewer).encode()), 422, "Field required")


@pytest.mark.parametrize(
    ("path", "change", "words"),
    [
        ("/v1/score", {"candidates": ["7", "nowhere"]}, ["'nowhere'", "PUT /v1/items/ID"]),
        ("/v1/score", {"candidates": []}, ["candidates"]),
        ("/v1/score", {"candidates": ["7"] * 21}, ["candidates", "at most 20", "found 21"]),
        ("/v1/score", {"candidates": [{"id": "n"}]}, ["candidates.0", "title: Field required"]),
        ("/v1/score", {"user": ""}, ["user"]),
        ("/v1/score", {"user": "x" * 257}, ["user"]),
        ("/v1/score", {"user": "a\0b"}, ["user", "NUL"]),
        ("/v1/score", {"user": True}, ["user"]),
        ("/v1/score", {"user": None}, ["user"]),
        ("/v1/score", {"deadline_ms": 30_001}, ["deadline_ms", "30000"]),
        ("/v1/score", {"deadline_ms": 0}, ["deadline_ms"]),
        ("/v1/score", {"history": [{"item": "nowhere", "label": 1}]}, ["history", "'nowhere'"]),
        ("/v1/score", {"history": [{"item": "7", "label": 1}] * 6}, ["history", "at most 5"]),
        ("/v1/score", {"history": [{"item": "7"}]}, ["history.0", "label"]),
        ("/v1/score", {"history": [{"item": "7", "label": 1, "rating": 3}]}, ["one of them"]),
        ("/v1/score", {"history": [{"item": "7", "label": 2}]}, ["history.0.label"]),
        (
            "/v1/score",
            {"history": [{"item": "7", "label": 1}, {"item": "8", "label": 1, "time": 5}]},
            ["all rows a time, or none"],
        ),
        ("/v1/recommend", {"k": 0}, ["k"]),
        ("/v1/recommend", {"k": 1001}, ["k"]),
        ("/v1/recommend", {"candidates": ["nowhere"]}, ["'nowhere'"]),
        ("/v1/recommend", {"where": {"colour": "red"}}, ["colour", "genres"]),
        ("/v1/recommend", {"deadline_ms": 30_001}, ["deadline_ms"]),
        ("/v1/admin/models", {"path": "a\0b"}, ["path", "NUL"]),
        ("/v1/admin/models", {"mode": "share"}, ["share"]),
        ("/v1/admin/models", {"mode": "moon"}, ["mode"]),
        ("/v1/admin/models", {"share": 0.5}, ["share"]),
        ("/v1/events", {"events": []}, ["events"]),
        ("/v1/events", {"events": [EVENT, {**EVENT, "item": "q"}]}, ["events.1.item", "'q'"]),
        ("/v1/events", {"events": [{**EVENT, "label": None}]}, ["events.0", "label"]),
        ("/v1/events", {"events": [{**EVENT, "time": "never"}]}, ["events.0.time"]),
        ("/v1/events", {"events": [{**EVENT, "event_id": ""}]}, ["events.0.event_id"]),
    ],
)
def test_fields_that_are_wrong(make_service, path, change, words):
    service = make_service(answer={"max_candidates": 20, "max_history": 5})
    bodies = {path: body for _, path, body, _ in ROUTES}
    with client_of(service) as client:
        problem(client.post(path, json={**bodies[path], **change}), 422, *words)
        assert service.store.events_of("1", 10) == []


def test_numbers_that_json_does_not_have_are_refused(client):
    for number in ("NaN", "Infinity", "-Infinity", "1e400"):
        body = json.dumps({"events": [{**EVENT, "label": None, "rating": "?"}]})
        text = body.replace('"?"', number)
        found = client.post(
            "/v1/events", content=text, headers={"content-type": "application/json"}
        )
        problem(found, 422, "rating", "finite")


def test_whole_numbers_are_ids(client):
    assert score(client, 1, 7, 8) == score(client, "1", "7", "8")


def test_routes_and_methods_that_do_not_exist(client):
    for path in ("/v1", "/v1/score/", "/v1/items", "/v2/score", "/redoc", "/v1/items/a"):
        found = client.get(path, follow_redirects=False)
        problem(found, 405 if path == "/v1/items/a" else 404)
    wrong = client.get("/v1/score")
    problem(wrong, 405)
    assert wrong.headers["allow"] == "POST"
    problem(client.put("/v1/users/", json={}), 422)


def test_an_error_of_the_service_is_a_problem_that_its_log_knows(make_service, monkeypatch, capsys):
    service = make_service()
    with client_of(service) as client:
        monkeypatch.setattr(service, "describe", lambda: {}["a secret"])
        found = client.get("/v1/model", headers={"X-Request-Id": "r1"})
        assert "secret" not in problem(found, 500)
        assert HEADERS.items() <= dict(found.headers).items()
        assert client.get("/livez").status_code == 200
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert len(lines) == 1  # and no traceback
    assert (lines[0]["error"], lines[0]["request_id"]) == ("KeyError: 'a secret'", "r1")
    assert re.search(r"test_http\.py:\d+$", lines[0]["place"])


def test_a_full_disk_refuses_events_and_leaves_answers(make_service):
    service = make_service()
    with client_of(service) as client:
        pages = service.store.write(lambda c: c.run("PRAGMA page_count")[0][0]).result()
        service.store.write(lambda c: c.run(f"PRAGMA max_page_count = {pages}")).result()
        events = [{**EVENT, "event_id": f"e{i}" + "x" * 200} for i in range(100)]
        problem(client.post("/v1/events", json={"events": events}), 507, "disk is full")
        assert len(score(client, "1", "7")) == 1
        assert service.store.events_of("1", 10) == []
        service.store.write(lambda c: c.run("PRAGMA max_page_count = 100000")).result()
        found = client.post("/v1/events", json={"events": events})
        assert found.json() == {"accepted": 100, "duplicates": 0}


# Limits.


def test_a_body_that_is_too_large(make_service):
    service = make_service(http={"log_requests": False, "max_body_kb": 2})
    at_most = b'{"user":"1","candidates":["7"]}'.ljust(2048)
    with listening(service) as address, httpx.Client(base_url=address) as client:
        client.headers["Content-Type"] = "application/json"
        for content in (at_most, iter([at_most[:1000], at_most[1000:]])):
            assert client.post("/v1/score", content=content).status_code == 200
        for content in (at_most + b" ", iter([at_most, b" "]), iter([b" " * 700] * 9)):
            found = client.post("/v1/score", content=content)
            problem(found, 413, "2,048 bytes")
            assert found.headers["connection"] == "close"
        for path in ("/livez", "/nowhere"):
            problem(client.request("GET", path, content=at_most + b" "), 413)


def test_a_length_that_is_no_length(client):
    for length in ("9" * 5000, "-1", "0x10", "1e3"):
        problem(client.post("/v1/score", content=b"{}", headers={"content-length": length}), 413)


def test_a_body_that_does_not_come(make_service):
    service = make_service(http={"log_requests": False, "body_timeout_s": 0.3})
    with listening(service) as address, half_sent(address) as slow:
        begun = time.monotonic()
        found = slow.getresponse()
        assert 0.2 < time.monotonic() - begun < 3
        assert found.status == 408
        assert found.headers["content-type"] == "application/problem+json"
        assert found.headers["connection"] == "close"
        assert json.loads(found.read())["status"] == 408


def test_requests_in_work_are_limited(make_service):
    service = make_service(http={"log_requests": False, "max_in_flight": 2})
    with (
        listening(service) as address,
        httpx.Client(base_url=address) as client,
        half_sent(address, body=b"[") as first,
        half_sent(address, body=b"[") as second,
    ):
        found = until(lambda: client.post("/v1/score", json=SCORE), 429)
        problem(found, 429, "2 requests are in work")
        assert int(found.headers["retry-after"]) >= 1
        assert client.get("/livez").status_code == 200
        for slow in (first, second):
            slow.send(b"        ]")
            assert slow.getresponse().status == 422
        assert until(lambda: client.post("/v1/score", json=SCORE), 200).status_code == 200


def until(ask, status):
    """Ask until the answer has a status, a little while."""
    end = time.monotonic() + 5
    while (found := ask()).status_code != status and time.monotonic() < end:
        time.sleep(0.02)
    return found


def test_who_has_no_key_takes_no_room(make_service, tmp_path):
    key = make_key(tmp_path / "keys.json", "a", ["score"])
    service = make_service(http={"log_requests": False, "max_in_flight": 1})
    with (
        listening(service, read_keys(tmp_path / "keys.json")) as address,
        half_sent(address, "/livez", "GET"),
        half_sent(address, "/livez", "GET"),
        half_sent(address, "/docs", "GET"),
    ):
        time.sleep(0.1)
        url = f"{address}/v1/score"
        assert httpx.post(url, json=SCORE, headers=bearer(key)).status_code == 200


def test_requests_a_second_are_limited_for_each_key(make_service, tmp_path):
    keys = [make_key(tmp_path / "keys.json", name, ["score"]) for name in ("a", "b")]
    service = make_service(http={"log_requests": False, "requests_per_s": 3})
    with client_of(service, read_keys(tmp_path / "keys.json")) as client:

        def ask(key):
            return client.get("/v1/model", headers=bearer(key))

        begun = time.monotonic()
        found = [ask(keys[0]) for _ in range(12)]
        refused = [one for one in found if one.status_code == 429]
        passed = len(found) - len(refused)
        assert 3 <= passed <= 3 + 3 * (time.monotonic() - begun) + 1
        for one in refused:
            problem(one, 429, "more than 3 requests a second")
            assert int(one.headers["retry-after"]) >= 1
        assert ask(keys[1]).status_code == 200
        for _ in range(5):
            assert client.get("/livez").status_code == 200
        time.sleep(0.4)
        assert ask(keys[0]).status_code == 200


# Items and users.


def test_a_new_item_is_scored_and_recommended_after_a_restart_too(make_service):
    about = {"title": "Dune: Part Two (2024)", "attributes": {"genres": ["Comedy"], "year": 1990}}
    with client_of(make_service()) as client:
        problem(client.post("/v1/score", json={"user": "1", "candidates": ["new"]}), 422)
        assert "new" not in recommended(client, "1")
        count = client.get("/v1/model").json()["items"]
        assert client.put("/v1/items/new", json=about).json() == {"added": True}
        other = {"title": "Another", "attributes": {"genres": ["Horror"]}}
        assert client.put("/v1/items/new", json=other).json() == {"added": False}
        assert client.put("/v1/items/7", json=about).json() == {"added": False}
        assert client.get("/v1/model").json()["items"] == count + 1
        before = score(client, "1", "new", "7")
        assert "new" in recommended(client, "1")
        assert "new" in recommended(client, "1", where={"genres": "Comedy"})
        assert "new" not in recommended(client, "1", where={"genres": "Horror"})
        event = {"event_id": "n", "user": "1", "item": "new", "label": 1}
        assert client.post("/v1/events", json={"events": [event]}).status_code == 200
        assert "new" not in recommended(client, "1")
        after = score(client, "1", "new", "7")
        assert after != before
    with client_of(make_service()) as client:
        assert score(client, "1", "new", "7") == after
        assert "new" in recommended(client, "2", where={"genres": "Comedy"})
        assert client.put("/v1/items/new", json=about).json() == {"added": False}


def test_a_number_is_the_value_that_the_log_has_as_text(client):
    for name, year in (("a", 1990), ("b", "1990"), ("c", 1991)):
        about = {"title": "A", "attributes": {"year": year}}
        assert client.put(f"/v1/items/{name}", json=about).json() == {"added": True}
    number, text, other = (row["p"] for row in score(client, "1", "a", "b", "c"))
    assert number == pytest.approx(text, abs=1e-6)  # places in a batch are rounded apart
    assert abs(text - other) > 1e-5


def test_an_attribute_of_a_wrong_type(make_service):
    service = make_service()
    with client_of(service) as client:
        about = {"title": "A", "attributes": {"year": ["1990"]}}
        problem(client.put("/v1/items/new", json=about), 422, "'new'", "'year'")
        body = {"user": "1", "candidates": [{"id": "new", **about}]}
        problem(client.post("/v1/score", json=body), 422, "'new'", "'year'")
        about = {"attributes": {"gender": ["F"]}}
        problem(client.put("/v1/users/new", json=about), 422, "'new'", "'gender'")
        for wrong in ({"year": {"a": 1}}, {"genres": [1]}, {"year": "a\0"}, {"year": 1e300}):
            found = client.put("/v1/items/new", json={"title": "A", "attributes": wrong})
            assert "[" not in problem(found, 422, f"attributes.{next(iter(wrong))}")
        assert service.store.entities("item") == service.store.entities("user") == []


def test_attributes_that_the_service_derives_cannot_be_given(client):
    client.put("/v1/items/plain", json={"title": "A"})
    more = {"train_rows": 10**6, "year_code": 10**6, "item_id_code": 3, "id": "7", "other": "x"}
    assert client.put("/v1/items/odd", json={"title": "A", "attributes": more}).status_code == 200
    plain, odd = score(client, "1", "plain", "odd", explain=True)
    values = [[one.pop("p"), one.pop("p_crm"), one["explanation"].pop("value")]
              for one in (plain, odd)]  # fmt: skip
    assert values[0] == pytest.approx(values[1], abs=1e-6)
    assert {**plain, "item": "odd"} == odd


def test_new_items_in_a_request(make_service):
    service = make_service()
    new = {"id": "new", "title": "A", "attributes": {"genres": ["Comedy"]}}
    with client_of(service) as client:
        found = score(client, "1", "7", new, "8", {"id": "7", "title": "Known already"})
        assert [row["item"] for row in found] == ["7", "new", "8", "7"]
        assert found[0]["p"] == pytest.approx(found[3]["p"])
        assert score(client, "1", "new")[0]["p"] == pytest.approx(found[1]["p"], abs=1e-6)
        assert [one for one, _ in service.store.entities("item")] == ["new"]
    with client_of(make_service()) as client:
        assert score(client, "1", "new")[0]["p"] == pytest.approx(found[1]["p"], abs=1e-6)


def test_a_new_user_has_the_attributes_that_were_given(make_service):
    with client_of(make_service()) as client:
        stranger = score(client, "new", "7", "8", "9")
        count = client.get("/v1/model").json()["users"]
        about = {"attributes": {"gender": "F", "age": 31, "occupation": "job1"}}
        assert client.put("/v1/users/new", json=about).json() == {"added": True}
        assert client.put("/v1/users/new", json={}).json() == {"added": False}
        assert client.put("/v1/users/1", json=about).json() == {"added": False}
        assert client.get("/v1/model").json()["users"] == count + 1
        known = score(client, "new", "7", "8", "9")
        assert known != stranger
    with client_of(make_service()) as client:
        assert score(client, "new", "7", "8", "9") == known


@pytest.mark.parametrize("user", ["17", "nobody", "a/b", "é ü%", "a/../b?c#d", "a\nb\n"])
def test_an_erased_user_is_answered_as_one_who_is_not_known(make_service, user):
    service, items = make_service(), [str(i) for i in range(1, 30)]
    path = "/v1/users/" + quote(user, safe="")
    with client_of(service) as client:
        assert client.put(path, json={"attributes": {"gender": "F"}}).status_code == 200
        events = [
            {
                "event_id": f"e{i}",
                "user": user,
                "item": str(i + 1),
                "label": i % 2,
                "time": 1000 + i,
            }
            for i in range(7)
        ]
        other = {"event_id": "other", "user": "2", "item": "7", "label": 1}
        client.post("/v1/events", json={"events": [*events, other]})
        unknown, second = score(client, "stranger", *items), score(client, "2", *items)
        assert score(client, user, *items) != unknown
        assert "3" not in recommended(client, user)
        assert client.delete(path).json() == {"events": 7}
        assert score(client, user, *items) == unknown
        assert recommended(client, user) == recommended(client, "stranger")
        assert score(client, "2", *items) == second
        assert client.delete(path).json() == {"events": 0}
        assert client.delete("/v1/users/never").json() == {"events": 0}
    service = make_service()
    with client_of(service) as client:
        assert score(client, user, *items) == unknown
        assert service.store.events_of(user, 10) == []
        assert service.store.entities("user") == []
        later = {"event_id": "later", "user": user, "item": "7", "label": 1}
        assert client.post("/v1/events", json={"events": [later]}).json()["accepted"] == 1
        assert score(client, user, *items) != unknown  # what comes later counts again


# What is told.


def test_the_model_is_described(make_service):
    service = make_service()
    with client_of(service) as client:
        told = client.get("/v1/model").json()
        log = service.now.model.log
        assert told["version"] == client.post("/v1/score", json=SCORE).json()["model"]
        assert (told["items"], told["users"]) == (log.items.height, log.users.height)
        assert (told["llm"], told["llm_ready"], told["llm_error"]) == ("off", False, None)
        assert told["crm"] == service.now.model.recipe.crm.model
        assert "router" in told["router"]


def test_readiness_ends_before_the_service_does(make_service):
    service = make_service()
    gate = build_app(service, [])
    with TestClient(gate, "http://127.0.0.1") as client:
        assert client.get("/readyz").json() == {"status": "ok"}
        gate.app.state.stopping = True  # pyright: ignore[reportFunctionMemberAccess]
        problem(client.get("/readyz"), 503, "stopping")
        assert client.get("/livez").json() == {"status": "ok"}
        assert client.post("/v1/score", json=SCORE).status_code == 200


METRICS = {
    "corellarec_requests": "counter",
    "corellarec_request_seconds": "histogram",
    "corellarec_rows": "counter",
    "corellarec_llm_calls": "counter",
    "corellarec_llm_tokens": "counter",
    "corellarec_budget_credit": "gauge",
    "corellarec_budget_share": "gauge",
    "corellarec_queue_depth": "gauge",
    "corellarec_batch_rows": "histogram",
    "corellarec_breaker_open": "gauge",
    "corellarec_drift": "gauge",
    "corellarec_store_seconds": "histogram",
    "corellarec_model_info": "gauge",
    "corellarec_shadow_difference": "histogram",
}


def test_metrics_count_and_hold_no_ids(client):
    secret = "tell-nobody"
    client.put(f"/v1/items/{secret}", json={"title": secret})
    client.put(f"/v1/users/{secret}", json={})
    body = {"user": secret, "candidates": [secret, "7"]}
    for _ in range(3):
        assert client.post("/v1/score", json=body).status_code == 200
    event = {"event_id": secret, "user": secret, "item": secret, "label": 1}
    client.post("/v1/events", json={"events": [event]})
    client.delete(f"/v1/users/{secret}")
    client.get(f"/{secret}")
    client.post("/v1/score", json={"user": secret, "candidates": [secret + "2"]})
    found = client.get("/metrics", headers={"X-Request-Id": secret})
    assert found.headers["content-type"].startswith("text/plain")
    assert secret not in found.text
    families = {one.name: one for one in text_string_to_metric_families(found.text)}
    created = {f"{name}_created" for name in METRICS}
    assert {name: f.type for name, f in families.items() if name not in created} == METRICS
    assert all(family.documentation for family in families.values())
    assert value(families, "corellarec_requests", route="/v1/score", code="200") == 3
    assert value(families, "corellarec_requests", route="/v1/score", code="422") == 1
    assert value(families, "corellarec_requests", route="refused", code="404") == 1
    assert value(families, "corellarec_rows", source="crm", reason="llm_off") == 6
    routes = {one.labels["route"] for one in families["corellarec_requests"].samples}
    assert routes <= {*(path.replace("9001", "{id}") for _, path, _, _ in ROUTES), "refused"}


def value(families, name, **labels):
    """A counter's value."""
    (found,) = (
        one.value
        for one in families[name].samples
        if one.name == f"{name}_total" and one.labels == labels
    )
    return found


def test_the_docs_load_nothing_from_elsewhere(client):
    found = client.get("/docs")
    assert found.headers["content-type"].startswith("text/html")
    page = found.text
    for _, path, _, _ in ROUTES:
        if path not in ("/docs", "/openapi.json"):
            assert path.replace("9001", "{id}") in page
    assert re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]+)""", page) == ["/openapi.json"]
    assert not re.search(
        r"<(script|link|img|iframe|object|embed|base|meta http)|url\(|@import", page
    )
    assert "://" not in re.sub(r"<(td|pre|p)>.*?</\1>", "", page)


def test_the_openapi_document_tells_of_problems(client):
    document = client.get("/openapi.json").json()
    for method, path, _, scope in ROUTES:
        if path in ("/docs", "/openapi.json"):
            continue
        answers = document["paths"][path.replace("9001", "{id}")][method.lower()]["responses"]
        assert ("401" in answers) == (scope is not None)
        for status, answer in answers.items():
            if status != "200":
                assert list(answer["content"]) == ["application/problem+json"]


# The log.


@pytest.mark.parametrize("ids", [False, True])
def test_log_lines_hold_users_only_if_they_may(make_service, tmp_path, capsys, ids):
    key = make_key(tmp_path / "keys.json", "shop", SCOPES)
    service = make_service(http={"log_ids": ids})
    with client_of(service, read_keys(tmp_path / "keys.json")) as client:
        client.headers.update(bearer(key))
        event = {"event_id": "secret-e", "user": "secret-u", "item": "7", "label": 1}
        client.put("/v1/users/secret-u", json={})
        client.post("/v1/events", json={"events": [event]})
        client.post("/v1/score", json={"user": "secret-u", "candidates": ["7"]},
                    headers={"X-Request-Id": "r1"})  # fmt: skip
        client.post("/v1/recommend", json={"user": "secret-u"})
        client.post("/v1/score", json={"user": "secret-u", "candidates": ["secret-i"]})
        client.post("/v1/score", json={"user": "secret-u", "secret-f": 1})
        client.delete("/v1/users/secret-u?secret-q=1")
        client.get("/secret-p", headers={"Authorization": "Bearer secret-k"})
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert len(lines) == 8
    for line in lines:
        assert line.get("key", "shop") == "shop"
        assert set(line) - {"key", "user"} == {
            "time", "request_id", "method", "route", "status", "ms",
        }  # fmt: skip
    (one,) = (line for line in lines if line["request_id"] == "r1")
    assert (one["method"], one["route"], one["status"]) == ("POST", "/v1/score", 200)
    assert 0 < one["ms"] < 20_000
    assert one.get("user") == ("secret-u" if ids else None)
    text = json.dumps(lines)
    assert key not in text
    assert "secret" not in text.replace("secret-u", "" if ids else "secret-u")


def test_no_line_where_none_is_wanted(client, capsys):
    score(client, "1", "7")
    assert capsys.readouterr().err == ""


def test_the_frame_of_recommendations_is_the_models(make_service):
    """An item that is put is ranked by its probability among the others."""
    service = make_service()
    with client_of(service) as client:
        client.put("/v1/items/new", json={"title": "A", "attributes": {"genres": ["Comedy"]}})
        ranked = recommended(client, "stranger")
        rows = {row["item"]: row["p"] for row in score(client, "stranger", *ranked)}
        table = pl.DataFrame({"item": ranked, "p": [rows[item] for item in ranked]})
        assert (table["p"].diff().drop_nulls() <= 1e-6).all()
        assert set(ranked) == set(service.now.model.items)


def test_a_stop_keeps_what_was_not_spent(make_service):
    """Without settings the share is the router's; a new store begins with the burst."""
    service = make_service(llm={"place": "off"}, budget={"burst": 50})
    share = service.now.model.router.limit
    assert service.bucket.take(0, 100) == 50
    service.bucket.take(100, 0)
    level = service.bucket.level
    assert 0 < level == pytest.approx(min(100 * share, 50))
    service.close()
    again = make_service(llm={"place": "off"}, budget={"burst": 50})
    assert again.bucket.level == pytest.approx(level)
    assert again.bucket.take(0, 1000) == math.floor(level)


def test_without_keys_only_names_of_this_machine_are_answered(make_service, tmp_path):
    service = make_service()
    local = ("127.0.0.1:8000", "localhost", "localhost:8000", "[::1]:8000", "127.0.0.1")
    others = (
        "example.com",
        "example.com:8000",
        "10.0.0.7",
        "127.0.0.1.example.com",
        "",
        "[",
        "a:b",
    )
    with client_of(service) as client:
        for host in local:
            assert client.get("/v1/model", headers={"Host": host}).status_code == 200, host
        for host in others:
            problem(client.get("/v1/model", headers={"Host": host}), 403, "serve-key")
    make_key(tmp_path / "keys.json", "shop", ["score"])
    service = make_service()
    with client_of(service, read_keys(tmp_path / "keys.json")) as client:
        assert client.get("/livez", headers={"Host": "example.com"}).status_code == 200
