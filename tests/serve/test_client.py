"""The clients against the service itself, and against transports and sockets that fail by plan."""

import asyncio
import inspect
import socket
import sys
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from subprocess import run as run_program

import httpx
import pytest
from services import program

from corellarec import AsyncClient, Client, ConfigError
from corellarec.client import (
    Added,
    Event,
    NewItem,
    OverloadedError,
    PastEvent,
    ServiceError,
    UnavailableError,
)
from corellarec.serve.app import build_app
from corellarec.serve.keys import SCOPES, make_key, read_keys
from corellarec.serve.settings import HttpSettings

URL = "http://127.0.0.1:8000"
EVENT = Event("3", "9", rating=5)
KINDS = pytest.mark.parametrize("kind", [Client, AsyncClient])


async def got(result):
    """The result of a client's method, whichever client's it is."""
    return await result if inspect.isawaitable(result) else result


def call(kind, handler, method, *arguments, key=None, limits=None, **more):
    """Call a method of a client whose requests a function answers."""
    made = kind(URL, key, transport=httpx.MockTransport(handler), **(limits or {}))

    async def ask():
        return await got(getattr(made, method)(*arguments, **more))

    return asyncio.run(ask())


def script(*steps):
    """Answers in their order, and the list of requests that they answered."""
    left, requests = list(steps), []

    def handler(request):
        requests.append(request)
        step = left.pop(0)
        if isinstance(step, Exception):
            raise step
        return httpx.Response(step.status_code, headers=step.headers, content=step.content)

    return handler, requests


def problem(status, detail="", **headers):
    body = {"type": "about:blank", "title": "", "status": status, "detail": detail}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, json=body, headers={"x-request-id": "r1", **named})


def added(accepted=1, duplicates=0):
    return httpx.Response(200, json={"accepted": accepted, "duplicates": duplicates})


@pytest.fixture
def waits(monkeypatch):
    """Seconds that the clients wait between attempts; none of them passes."""
    waited = []

    async def sleep(seconds):
        waited.append(seconds)

    monkeypatch.setattr(time, "sleep", waited.append)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    return waited


# Against the service.


async def use(made):
    """Every method of a client of the service over the tiny run."""
    assert await got(made.ready())
    about = await got(made.model())
    assert about.llm == "off"
    assert about.items > 40

    before = await got(made.score("3", ["7", "8"], explain=True, ask_anyway=True))
    assert [row.item for row in before.candidates] == ["7", "8"]
    assert {(row.source, row.reason) for row in before.candidates} == {("crm", "llm_off")}
    assert all(row.p == row.p_crm and row.p_llm is None for row in before.candidates)
    assert before.candidates[0].explanation.history_rows > 0
    assert (before.degraded, before.model) == (False, about.version)
    assert before.request_id

    at = datetime(2001, 2, 3, tzinfo=UTC)
    events = [Event("3", "9", rating=5, time=at), Event("3", "10", label=0)]
    assert await got(made.add_events(iter(events))) == Added(2, 0)
    assert await got(made.add_events(events)) == Added(0, 2)
    after = await got(made.score("3", ["7", "8"], deadline_ms=20_000))
    assert after.candidates[0].p != before.candidates[0].p
    assert after.candidates[0].explanation is None

    rows = [PastEvent("5", rating=5, time=at), PastEvent("6", label=0, time=at)]
    own = await got(made.score("nobody", ["7"], history=rows))
    none = await got(made.score("nobody", ["7"], history=[]))
    assert own.candidates[0].p != none.candidates[0].p

    best = await got(made.recommend("1", 3, exclude=["5"], candidates=["4", "5", "6"],
                                    exclude_seen=False))  # fmt: skip
    assert {row.item for row in best.candidates} == {"4", "6"}
    assert best.candidates[0].p >= best.candidates[1].p
    comedies = await got(made.recommend("1", k=2, where={"genres": "Comedy"}, explain=True,
                                        history=rows, deadline_ms=20_000))  # fmt: skip
    assert 1 <= len(comedies.candidates) <= 2
    assert comedies.candidates[0].explanation.history_rows == 2

    attributes = {"genres": ["Comedy"]}
    assert await got(made.put_item("new/ 1%", "New (2001)", attributes))
    assert not await got(made.put_item("new/ 1%", "Another"))
    new = NewItem("new2", "Newer (2002)", attributes)
    found = await got(made.score("3", ["new/ 1%", new], deadline_ms=20_000))
    assert [row.item for row in found.candidates] == ["new/ 1%", "new2"]
    assert await got(made.put_user("ü", {"age": 31}))
    assert not await got(made.put_user("ü"))
    assert await got(made.erase_user("3")) == 2
    assert await got(made.erase_user("3")) == 0

    with pytest.raises(ServiceError, match="item 'x' is not known") as refused:
        await got(made.score("3", ["x"]))
    assert refused.value.status == 422
    assert refused.value.request_id


def test_the_async_client_uses_every_route(make_service, tmp_path):
    key = make_key(tmp_path / "keys.json", "test", SCOPES)
    app = build_app(make_service(), read_keys(tmp_path / "keys.json"))

    async def ask():
        transport = httpx.ASGITransport(app=app)
        async with AsyncClient(URL, key, timeout_s=30, transport=transport) as made:
            await use(made)

    asyncio.run(ask())


def test_the_client_uses_every_route_of_a_process(run, tmp_path):
    key = make_key(tmp_path / "keys.json", "test", SCOPES)
    settings = (
        f'keys = "{tmp_path}/keys.json"\nllm.place = "off"\n'
        "answer.deadline_ms = 20000\nanswer.recommend_deadline_ms = 20000\n"
    )
    with (
        program(run, tmp_path, settings) as (process, address, _),
        Client(address + "/", key, timeout_s=30) as made,
    ):
        asyncio.run(use(made))
        process.kill()
        process.wait()
        assert not made.ready()
        with pytest.raises(UnavailableError, match=address) as gone:
            made.model()
        assert gone.value.status is None


def test_what_the_gate_refuses_is_an_error(make_service, tmp_path):
    key = make_key(tmp_path / "keys.json", "reader", ["score"])
    service = make_service()
    service.config = service.config.model_copy(update={"http": HttpSettings(
        log_requests=False, requests_per_s=0.01)})  # fmt: skip
    app = build_app(service, read_keys(tmp_path / "keys.json"))

    async def ask(key):
        transport = httpx.ASGITransport(app=app)
        async with AsyncClient(URL, key, transport=transport) as made:
            return await made.model()

    with pytest.raises(ServiceError, match="401: give a key"):
        asyncio.run(ask(None))
    assert asyncio.run(ask(key)).llm == "off"
    with pytest.raises(OverloadedError, match="429: more than 0.01 requests a second") as refused:
        asyncio.run(ask(key))  # the service says to wait longer than timeout_s
    assert refused.value.retry_after_s > 50


# What is sent.


@KINDS
def test_requests_carry_the_key_and_quoted_ids(kind):
    handler, requests = script(httpx.Response(200, json={"events": 3}))
    assert call(kind, handler, "erase_user", "a/b ?#", key="clr_x") == 3
    assert str(requests[0].url) == URL + "/v1/users/a%2Fb%20%3F%23"
    assert requests[0].headers["authorization"] == "Bearer clr_x"


@KINDS
def test_many_events_are_sent_in_parts(kind):
    handler, requests = script(added(1000), added(400, 100))
    events = [Event("1", str(i), label=1) for i in range(1500)]
    assert call(kind, handler, "add_events", events) == Added(1400, 100)
    assert len(requests) == 2
    assert call(kind, handler, "add_events", []) == Added(0, 0)


@KINDS
def test_what_is_not_given_is_not_sent(kind):
    answer = {"candidates": [], "degraded": False, "model": "m", "request_id": "r", "later": 1}
    handler, requests = script(httpx.Response(200, json=answer))
    call(kind, handler, "score", "1", ["2"])
    assert requests[0].read() == b'{"user":"1","candidates":["2"],"explain":false}'


def test_events_are_checked_where_they_are_made():
    assert EVENT.event_id != Event("3", "9", rating=5).event_id
    for wrong in ({}, {"label": 1, "rating": 5}):
        with pytest.raises(ValueError, match="label"):
            Event("1", "2", **wrong)
        with pytest.raises(ValueError, match="label"):
            PastEvent("2", **wrong)
    with pytest.raises(ValueError, match="time zone"):
        Event("1", "2", label=1, time=datetime(2001, 2, 3))


@KINDS
@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://a", "http://u:p@a", "http://a?b",
                                 "http://a:b", "http://"])  # fmt: skip
def test_a_wrong_url_is_refused(kind, url):
    with pytest.raises(ConfigError, match="base_url"):
        kind(url)


@KINDS
def test_wrong_keys_and_limits_are_refused(kind):
    for key in ("", "a\nb", "ü", "a b"):
        with pytest.raises(ConfigError, match="key"):
            kind(URL, key)
    with pytest.raises(ConfigError, match="timeout_s"):
        kind(URL, timeout_s=0)
    with pytest.raises(ConfigError, match="retries"):
        kind(URL, retries=-1)


# Failures.


@KINDS
def test_an_event_is_sent_again_under_its_id(kind, waits):
    handler, requests = script(
        httpx.ReadError("lost"),
        problem(503, "no store", retry_after="2"),
        added(0, 1),
    )
    assert call(kind, handler, "add_events", [EVENT]) == Added(0, 1)
    assert len({request.read() for request in requests}) == 1
    assert EVENT.event_id.encode() in requests[0].read()
    assert 0.04 < waits[0] < 0.11
    assert waits[1] == 2


@KINDS
def test_retries_end(kind, waits):
    busy = problem(429, "busy", retry_after="1")
    handler, requests = script(*[busy] * 9)
    with pytest.raises(OverloadedError, match="429: busy") as refused:
        call(kind, handler, "model")
    assert len(requests) == 3
    assert (refused.value.retry_after_s, refused.value.request_id) == (1, "r1")
    handler, requests = script(*[busy] * 9)
    with pytest.raises(OverloadedError):
        call(kind, handler, "model", limits={"retries": 0})
    assert len(requests) == 1


@KINDS
def test_no_wait_goes_beyond_the_timeout(kind, waits):
    handler, requests = script(*[problem(429, retry_after="6")] * 9)
    with pytest.raises(OverloadedError):
        call(kind, handler, "model", limits={"timeout_s": 5})
    assert len(requests) == 1
    assert waits == []


@KINDS
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (problem(429), OverloadedError),
        (problem(503), UnavailableError),
        (problem(507, retry_after="1"), UnavailableError),
        (problem(500, retry_after="1"), ServiceError),
        (problem(422, retry_after="1"), ServiceError),
        (httpx.Response(302, headers={"location": "http://elsewhere"}), ServiceError),
    ],
)
def test_other_answers_are_not_asked_again(kind, answer, error, waits):
    handler, requests = script(*[answer] * 9)
    with pytest.raises(ServiceError) as refused:
        call(kind, handler, "model", key="secret")
    assert type(refused.value) is error
    assert refused.value.status == answer.status_code
    assert len(requests) == 1


@KINDS
def test_readiness_is_asked_once(kind, waits):
    lost = httpx.ConnectError("refused")
    for step in (lost, problem(503, "stopping", retry_after="1")):
        handler, requests = script(*[step] * 9)
        assert call(kind, handler, "ready") is False
        assert len(requests) == 1


@KINDS
@pytest.mark.parametrize("body", ["<html>Hello", "[]", "{}", '{"version": 1}', "null", "\xff"])
def test_an_answer_of_something_else_is_an_error(kind, body, waits):
    handler, _ = script(httpx.Response(200, content=body.encode("latin-1")))
    with pytest.raises(ServiceError, match=r"GET /v1/model: the answer is none of corellarec's"):
        call(kind, handler, "model")


@KINDS
def test_a_proxys_page_is_one_line(kind, waits):
    page = "<html>\r\n<h1>502 Bad\x1b[2J Gateway</h1>"
    handler, _ = script(httpx.Response(502, content=page.encode()))
    with pytest.raises(UnavailableError, match=r"502: <html> <h1>502 Bad \[2J Gateway</h1>$"):
        call(kind, handler, "model")
    handler, _ = script(httpx.Response(500))
    with pytest.raises(ServiceError, match="500: no explanation"):
        call(kind, handler, "model")


@contextmanager
def listening(*conversations):
    """A socket's address; each connection has a function of its own, which is given the socket."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def work():
            for converse in conversations:
                connection, _ = server.accept()
                with connection:
                    connection.settimeout(5)
                    connection.recv(65_536)
                    try:
                        converse(connection)
                    except OSError:
                        continue  # the client has gone

        thread = threading.Thread(target=work)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        thread.join()


def silent(connection):
    connection.recv(1)


def dripping(connection):
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(100):
        connection.sendall(b" ")
        time.sleep(0.05)


def closing(connection):
    connection.close()


def answering(connection):
    body = b'{"events": 4}'
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


@KINDS
@pytest.mark.parametrize("converse", [silent, dripping])
def test_a_call_ends_at_its_timeout(kind, converse):
    with listening(converse) as address:
        made = kind(address, timeout_s=0.4)

        async def ask():
            await got(made.model())

        begun = time.monotonic()
        with pytest.raises(UnavailableError, match=r"no answer in 0.4 s"):
            asyncio.run(ask())
        assert 0.35 < time.monotonic() - begun < 2


@KINDS
def test_a_lost_connection_is_made_again(kind):
    with listening(closing, answering) as address:
        made = kind(address)

        async def ask():
            found = await got(made.erase_user("1"))
            await got(made.close())
            return found

        assert asyncio.run(ask()) == 4


def test_the_client_loads_little():
    code = "import corellarec.client, sys; print(sorted({'torch', 'polars', 'fastapi', 'numpy', "
    code += "'pydantic'} & set(sys.modules)))"
    found = run_program([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
