"""The service under attack: killed, stopped, out of disk, and sent what no client should send."""

import http.client
import json
import resource
import signal
import socket
import threading
import time
from contextlib import contextmanager, suppress

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed
from hypothesis import settings as examples
from hypothesis.errors import Unsatisfiable
from mutations import ODD, mutate, mutate_bytes
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi import checks
from schemathesis.transport.requests import REQUESTS_TRANSPORT
from test_disk import small_disk

from corellarec.cascade.cascade import Cascade
from corellarec.serve.model import ServedModel
from corellarec.serve.service import Service
from corellarec.serve.settings import ServeConfig
from corellarec.serve.store import Store
from serve.services import asking, client_of, program

SHARE, BURST = 0.25, 1050
SETTINGS = f"""
[answer]
deadline_ms = 20000
recommend_deadline_ms = 20000
[budget]
share = {SHARE}
burst = {BURST}
"""
SCORE = {"user": "1", "candidates": [str(i) for i in range(1, 21)]}


@pytest.fixture(scope="module")
def cascade(finished, tmp_path_factory):
    """The tiny cascade, which would ask about every row."""
    made = tmp_path_factory.mktemp("asking") / "cascade"
    asking(Cascade.load(finished[0], device="cpu")).save(made)
    return made


def load_another(path):
    return ServedModel.load(path, device="cpu", trust=None, llm=None, server={})


@contextmanager
def service_in_process(run, place):
    """A client of a service without a language model, in this process."""
    settings = {
        "llm": {"place": "off"},
        "answer": {"deadline_ms": 20_000, "recommend_deadline_ms": 20_000},
        "http": {"log_requests": False},
    }
    model = ServedModel(Cascade.load(run, device="cpu"), "v1")
    store = Store(str(place))
    service = Service(model, ServeConfig.model_validate(settings), store, load_another)
    with client_of(service) as client:
        yield client


class Load:
    """Threads that add events and ask, until the service has gone or they are stopped.

    Attributes:
        sent, kept: Events by id: those that were sent, and those that were acknowledged.
        rows, asked: Rows that were sent, and those that the language model answered.
        odd: Answers that are no success.
    """

    def __init__(self, address, threads=3, name=""):
        self.address, self.name, self.ended = address, name, threading.Event()
        self.sent, self.kept, self.rows, self.asked, self.odd = {}, {}, 0, 0, []
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.work, args=(i,)) for i in range(threads)]
        for thread in self.threads:
            thread.start()

    def work(self, worker):
        number = 0
        with suppress(httpx.TransportError), httpx.Client(base_url=self.address, timeout=30) as to:
            while not self.ended.is_set():
                self.add(to, f"{self.name}-{worker}-{number}", str(1 + number % 40))
                self.ask(to, str(1 + number % 40))
                number += 1

    def add(self, to, name, user):
        events = {
            f"{name}-{i}": {"user": user, "item": str(1 + i), "label": i % 2} for i in range(3)
        }
        with self.lock:
            self.sent.update(events)
        body = [{"event_id": one, **event} for one, event in events.items()]
        found = to.post("/v1/events", json={"events": body})
        with self.lock:
            if found.status_code == 200 and found.json() == {"accepted": 3, "duplicates": 0}:
                self.kept.update(events)
            else:
                self.odd.append(found.text)

    def ask(self, to, user):
        with self.lock:
            self.rows += len(SCORE["candidates"])
        found = to.post("/v1/score", json={**SCORE, "user": user})
        with self.lock:
            if found.status_code == 200:
                reasons = [row["reason"] for row in found.json()["candidates"]]
                self.asked += reasons.count("asked")
            else:
                self.odd.append(found.text)

    def stop(self):
        self.ended.set()
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive()


def stored(place):
    """All events of the 40 users of a store, by id."""
    store = Store(str(place))
    try:
        rows = [event for user in range(1, 41) for event in store.events_of(str(user), 10**6)]
    finally:
        store.close()
    assert len({row.event_id for row in rows}) == len(rows)
    return {r.event_id: {"user": r.user, "item": r.item, "label": r.label} for r in rows}


def test_killed_services(attack, cascade, tmp_path):
    """No acknowledged event is lost or there twice, and no credit is spent twice."""
    kept, sent, rows, asked = {}, {}, 0, 0
    for number in range(attack.times(1, 20)):
        with program(cascade, tmp_path, SETTINGS) as (process, address, log):
            again = [{"event_id": one, **event} for one, event in kept.items()]
            for start in range(0, len(again), 1000):
                part = again[start : start + 1000]
                found = httpx.post(f"{address}/v1/events", json={"events": part}, timeout=60)
                fine = found.json() == {"accepted": 0, "duplicates": len(part)}
                attack.note("sent again" if fine else "lost", found.text, bad=not fine)
            load = Load(address, name=str(number))
            time.sleep(attack.random.uniform(0.2, 2.0))
            process.kill()
            process.wait()
            load.stop()
        for answer in load.odd:
            attack.note("odd answer", answer, bad=True)
        kept, sent = {**kept, **load.kept}, {**sent, **load.sent}
        rows, asked = rows + load.rows, asked + load.asked
        there = stored(tmp_path / "program.sqlite")
        lost = {one for one, event in kept.items() if there.get(one) != event}
        made_up = {one for one, event in there.items() if sent.get(one) != event}
        attack.note("lost" if lost else "all kept", sorted(lost)[:5], bad=bool(lost))
        attack.note(
            "made up" if made_up else "none made up", sorted(made_up)[:5], bad=bool(made_up)
        )
        overspent = asked > BURST + SHARE * rows
        attack.note("overspent" if overspent else "budget kept", (asked, rows), bad=overspent)
        traceback = "Traceback" in log.read_text()
        attack.note("traceback" if traceback else "quiet", log.read_text()[-900:], bad=traceback)
    assert kept
    assert asked


def test_service_on_a_full_disk(attack, cascade, tmp_path):
    """The store and the log are on one disk: events are refused, answers go on."""
    folder = tmp_path / "disk"
    with small_disk(folder, 1500) as file_size:
        filler = folder / "filler"
        filler.write_bytes(b"x" * 500_000)
        with program(cascade, folder, SETTINGS, "--llm-place", "off") as (process, address, _):
            if file_size:
                limit = 200_000  # of a file, the log among them
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, -1))

            def add(start):
                events = [
                    {"event_id": f"e{start + i}" + "x" * 200, "user": "1", "item": "7", "label": 1}
                    for i in range(200)
                ]
                return httpx.post(f"{address}/v1/events", json={"events": events}, timeout=60)

            kept, found = 0, add(0)
            while found.status_code == 200 and kept < 20_000:
                kept += 200
                found = add(kept)
            told = found.json()
            full = found.status_code == 507 and "disk is full" in told["detail"]
            full = full or (file_size and found.status_code == 503)  # that is no full disk
            attack.note(found.status_code, found.text, bad=not (full and kept))
            for number in range(attack.times(40, 3000)):
                user = str(number % 50)
                found = httpx.post(f"{address}/v1/score", json={**SCORE, "user": user}, timeout=60)
                good = found.status_code == 200
                attack.note("answered" if good else found.status_code, found.text, bad=not good)
            filler.unlink()
            if file_size:
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (-1, -1))
            found = add(kept)
            good = found.json() == {"accepted": 200, "duplicates": 0}
            attack.note("accepted later" if good else "refused", found.text, bad=not good)
            process.kill()
            process.wait()
            assert len(stored(folder / "program.sqlite")) == kept + 200


BODIES = {
    ("POST", "/v1/score"): {
        "user": "1",
        "candidates": ["7", {"id": "n1", "title": "A", "attributes": {"genres": ["Comedy"]}}],
        "history": [{"item": "5", "rating": 3.5, "time": "2024-01-01T00:00:00Z"}],
        "deadline_ms": 9000,
        "explain": True,
    },
    ("POST", "/v1/recommend"): {
        "user": "1", "k": 5, "candidates": ["7", "8"], "exclude": ["7"], "exclude_seen": False,
        "where": {"genres": "Comedy"}, "history": [{"item": "5", "label": 1, "time": 17}],
    },
    ("POST", "/v1/events"): {
        "events": [
            {"event_id": "e", "user": "1", "item": "7", "label": 1, "time": 1700000000},
            {"event_id": "f", "user": "2", "item": "8", "rating": 4},
        ]
    },
    ("PUT", "/v1/items/n"): {
        "title": "A", "attributes": {"genres": ["Comedy", "Drama"], "year": 1990, "other": True},
    },
    ("PUT", "/v1/users/n"): {"attributes": {"age": "31", "gender": "F", "zip_prefix": None}},
    ("DELETE", "/v1/users/n"): {},
    ("POST", "/v1/admin/models"): {"path": "/nowhere", "mode": "share", "share": 0.5},
}  # fmt: skip


def changed(random, tree):
    """A body with one or more of its values, at any depth, replaced by odd ones."""
    if not tree or random.random() < 0.15 or not isinstance(tree, dict | list):
        return random.choice(ODD)
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    key = random.choice(list(copy) if isinstance(copy, dict) else range(len(copy)))
    if isinstance(copy, dict) and random.random() < 0.1:
        copy[random.choice(["\ud800", "x", "", "id", "é" * 300])] = random.choice(ODD)
    copy[key] = changed(random, copy[key])
    return copy


def sent_content(random, body):
    """The bytes of a body after random changes."""
    if random.random() < 0.6:
        return json.dumps(changed(random, body)).encode()
    whole = json.dumps(body).encode()
    return mutate_bytes(random, whole) if random.random() < 0.5 else mutate(random, ".json", whole)


def sent_path(random, path):
    """The path, at times with another id."""
    if path.endswith("/n") and random.random() < 0.5:
        odd = random.choice(
            ["%00", "%2F", "%ff", "é", "x" * 300, "1", "%0A", "?a=b", "%F0%9F%98%80"]
        )
        return path[:-1] + odd
    return path


def test_fuzzed_requests(attack, finished, tmp_path):
    """No request is the service's fault, none shows its inside, and none hurts a later one."""
    place = tmp_path / "store.sqlite"
    with service_in_process(finished[0], place) as client:
        expected = client.post("/v1/score", json={**SCORE, "user": "stranger"}).json()["candidates"]
        for _ in range(attack.times(200, 10_000)):
            (method, path), body = attack.random.choice(list(BODIES.items()))
            path, content = sent_path(attack.random, path), sent_content(attack.random, body)
            found = client.request(
                method, path, content=content, headers={"content-type": "application/json"}
            )
            kind = found.headers.get("content-type")
            good = found.status_code == 200 and kind == "application/json"
            refused = found.status_code in (400, 404, 405, 413, 422, 429)
            refused = refused and kind == "application/problem+json"
            bad = (
                not (good or refused) or "Traceback" in found.text or "site-packages" in found.text
            )
            attack.note(found.status_code, f"{method} {path} {content[:300]} {found.text}", bad=bad)
        after = client.post("/v1/score", json={**SCORE, "user": "stranger"}).json()["candidates"]
        attack.note("then the same answer", bad=after != expected)
    with service_in_process(finished[0], place) as client:  # what was added can be read
        after = client.post("/v1/score", json={**SCORE, "user": "stranger"}).json()["candidates"]
        attack.note("then the same answer", bad=after != expected)


def no_fault(_, found, __):
    """The service has no fault; at most it is too busy, and says so."""
    busy = found.status_code == 503 and "retry-after" in found.headers
    assert found.status_code < 500 or busy, found.text


CHECKS = [
    no_fault,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


@pytest.mark.filterwarnings("default")
def test_requests_of_the_openapi_document(attack, finished, tmp_path):
    """Whatever the document allows and forbids is answered as the document says."""
    number = attack.times(5, 400)
    with service_in_process(finished[0], tmp_path / "store.sqlite") as client:
        schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())

        def check(case):
            sent = REQUESTS_TRANSPORT.serialize_case(case, base_url="http://127.0.0.1")
            sent.pop("timeout", None)
            one = requests.Request(**sent).prepare()
            found = client.request(one.method, one.url, headers=one.headers, content=one.body)
            try:
                case.validate_response(found, checks=CHECKS)
            except (AssertionError, Failure, FailureGroup) as error:
                said = getattr(error, "exceptions", [error])
                attack.note("not as told", f"{one.method} {one.url} {one.body}: {said}", bad=True)
            else:
                attack.note(found.status_code)

        for result in schema.get_all_operations():
            assert isinstance(result, Ok)
            operation = result.ok()
            for mode in schemathesis.GenerationMode:
                strategy = operation.as_strategy(generation_mode=mode)
                run = examples(
                    max_examples=number, database=None, deadline=None, phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                )(given(strategy)(check))  # fmt: skip
                with suppress(Unsatisfiable):  # nothing can be wrong where nothing is sent
                    seed(attack.seed)(run)()
        assert attack.counts.total() > 10 * number


def connect(address):
    host, port = address.removeprefix("http://").rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=30)


HEAD = b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def test_slow_clients(attack, cascade, tmp_path):
    """Heads and bodies that drip, and answers that nobody reads, hold nobody else up."""
    number = attack.times(20, 200)
    more = "[http]\nbody_timeout_s = 1.0\nlog_requests = false\n"
    with program(cascade, tmp_path, SETTINGS + more, "--llm-place", "off") as (_, address, log):
        heads, bodies = ([connect(address) for _ in range(number)] for _ in range(2))
        readers = [connect(address) for _ in range(5)]
        ended = threading.Event()

        def drip():
            for one in heads:
                one.sendall(HEAD + b"X-Slow: ")
            for one in bodies:
                one.sendall(HEAD + b"Content-Length: 100000\r\n\r\n")
            while not ended.wait(0.05):
                for one in (*heads, *bodies):
                    with suppress(OSError):  # refused, and closed
                        one.sendall(b" ")

        dripping = threading.Thread(target=drip)
        dripping.start()
        for one in readers:
            one.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 200)
        until, times = time.monotonic() + 2.5, 0
        with httpx.Client(base_url=address, timeout=5) as client:
            while time.monotonic() < until or times < 50:
                found = client.post("/v1/score", json=SCORE)
                good = found.status_code == 200
                attack.note("answered" if good else found.status_code, found.text, bad=not good)
                times += 1
        ended.set()
        dripping.join()
        for one in bodies:
            answer = one.recv(4096)
            good = answer.startswith(b"HTTP/1.1 408 ")
            attack.note("refused" if good else "not refused", answer, bad=not good)
        for one in (*heads, *bodies, *readers):
            one.close()
        assert httpx.get(f"{address}/livez", timeout=5).status_code == 200
        assert "Traceback" not in log.read_text(), log.read_text()[-3000:]


DRAIN_S = 2


@pytest.mark.parametrize(
    ("number", "host"), [(signal.SIGTERM, "127.0.0.1"), (signal.SIGINT, "::1")]
)
def test_stopped_services(attack, cascade, tmp_path, number, host):
    """Requests in work are answered, one that never ends is given up, and nothing is lost."""
    if host == "::1" and not has_ipv6():
        host = "127.0.0.1"
    more = f"[http]\ndrain_s = {DRAIN_S}\nbody_timeout_s = 60\n"
    for again in range(attack.times(1, 8)):
        with program(cascade, tmp_path, SETTINGS + more, "--host", host) as (process, address, log):
            place = address.removeprefix("http://")
            content = json.dumps(SCORE).encode()
            slow, endless = (http.client.HTTPConnection(place, timeout=30) for _ in range(2))
            for one in (slow, endless):
                one.putrequest("POST", "/v1/score")
                one.putheader("Content-Type", "application/json")
                one.putheader("Content-Length", str(len(content)))
                one.endheaders(content[:10])
            load = Load(address, name=f"{number}-{again}")
            time.sleep(attack.random.uniform(0.3, 1.5))
            process.send_signal(number)
            begun = time.monotonic()
            time.sleep(0.4)
            slow.send(content[10:])
            answer = slow.getresponse()
            rows = json.loads(answer.read())["candidates"]
            good = answer.status == 200 and len(rows) == len(SCORE["candidates"])
            attack.note("answered while it stopped", answer.status, bad=not good)
            given_up = endless.getresponse()
            good = given_up.status == 503 and b"stopping" in given_up.read()
            attack.note("given up" if good else "not told", given_up.status, bad=not good)
            code = process.wait(60)
            took = time.monotonic() - begun
            load.stop()
            slow.close()
            endless.close()
        fine = code in (0, 128 + number)
        attack.note(f"exit {code}", log.read_text()[-900:], bad=not fine)
        late = took > DRAIN_S + 8
        attack.note("late" if late else "in time", took, bad=late)
        for odd in load.odd:
            attack.note("odd answer", odd, bad=True)
        there = stored(tmp_path / "program.sqlite")
        lost = {one for one, event in load.kept.items() if there.get(one) != event}
        attack.note("lost" if lost else "all kept", sorted(lost)[:5], bad=bool(lost))
        traceback = "Traceback" in log.read_text()
        attack.note("traceback" if traceback else "quiet", log.read_text()[-2000:], bad=traceback)
        assert load.kept


def has_ipv6():
    with suppress(OSError), socket.socket(socket.AF_INET6) as one:
        one.bind(("::1", 0))
        return True
    return False
