"""The store over SQLite and over a PostgreSQL server that the tests start, and outages of both."""

import asyncio
import contextlib
import os
import shutil
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from services import client_of

from corellarec.base.errors import ConfigError
from corellarec.serve.store import Event, Store, StoreError, StoreFullError

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
PASSWORD, MOST = "its-secret", 30


@dataclass
class Postgres:
    """A server of the tests' own, on loopback.

    Args:
        data: Its directory.
        port: Where it listens.
        names: Of databases that no test has used.
    """

    data: Path
    port: int
    names: Iterator[str] = field(default_factory=lambda: (f"store{i}" for i in range(MOST)))

    def url(self, database: str | None = None) -> str:
        """The address of a database, of an unused one by default."""
        database = database or next(self.names)
        return f"postgresql://tester:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def run(self, program: str, *arguments: object) -> None:
        """Run one of its programs, as a user who is not root: root may not."""
        command = [str(BINARIES[-1].with_name(program)), *map(str, arguments)]
        if os.geteuid() == 0:
            command = ["runuser", "-u", "postgres", "--", *command]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd="/", stdin=subprocess.DEVNULL
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self.port} -k '' -c fsync=off"
        log = self.data.with_name("log.txt")
        self.run("pg_ctl", "-D", self.data, "-w", "-o", options, "-l", log, "start")

    def stop(self) -> None:
        self.run("pg_ctl", "-D", self.data, "-w", "-m", "immediate", "stop")


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    """A running server; a test that stops it starts it again."""
    if not BINARIES:
        pytest.skip("no PostgreSQL server in /usr/lib/postgresql (apt-get install postgresql)")
    psycopg = pytest.importorskip("psycopg")
    folder = tmp_path_factory.mktemp("postgres")
    if os.geteuid() == 0:  # its user reaches nothing below the temporary directory of root
        folder = Path("/var/tmp") / f"corellarec-test-{os.getpid()}"
        folder.mkdir()
        shutil.chown(folder, "postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        made = Postgres(folder / "data", free.getsockname()[1])
    secret = folder / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o644)
    made.run("initdb", "-D", made.data, "-U", "tester", "-A", "scram-sha-256", "-N",
             "--pwfile", secret, "-E", "UTF8", "--no-locale")  # fmt: skip
    made.start()
    try:
        with psycopg.connect(made.url("postgres"), autocommit=True) as connection:
            for number in range(MOST):
                connection.execute(f"CREATE DATABASE store{number}")
        yield made
    finally:
        with contextlib.suppress(AssertionError):  # a test may have stopped it
            made.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgres"])
def place(request, tmp_path):
    """Where a new store is."""
    if request.param == "sqlite":
        return str(tmp_path / "folder" / "store.sqlite")
    server = request.getfixturevalue("postgres")
    return server.url()


@contextlib.contextmanager
def opened(place):
    store = Store(place)
    try:
        yield store
    finally:
        store.close()


@pytest.fixture
def store(place):
    with opened(place) as made:
        yield made


def event(number, user="u", item="i", time=None, label=1, rating=None):
    return Event(f"e{number}", user, item, number if time is None else time, label, rating)


class TestStore:
    """What both databases do alike."""

    def test_events_come_back_as_they_were(self, store):
        events = [
            Event("1", "u", "i", -62_135_596_800_000_000, 1, None),
            Event("2", "u", "ü' \"; DROP TABLE events; -- %s ? \U0001f600", 0, 0, None),
            Event("3", "u", "i", 1_700_000_000_000_000, None, 3.7),
            Event("4", "u", "i", 253_402_300_799_999_999, None, -1e-300),
        ]
        assert store.add_events(events).result() == 4
        assert store.events_of("u", 10) == events
        assert store.events_of("U", 10) == store.events_of("", 10) == []

    def test_an_event_counts_once(self, store):
        assert store.add_events([event(1), event(2), event(1, item="other")]).result() == 2
        assert store.add_events([event(2, "v"), event(3)]).result() == 1
        assert store.add_events([event(3), event(1)]).result() == 0
        assert store.add_events([]).result() == 0
        assert store.events_of("u", 10) == [event(1), event(2), event(3)]
        assert store.events_of("v", 10) == []

    def test_the_newest_events_come_oldest_first(self, store):
        times = [5, 3, 9, 3, 7, 1, 9]
        store.add_events([event(i, time=time) for i, time in enumerate(times)]).result()
        store.add_events([event(100 + i, "other", time=i) for i in range(10)]).result()
        order = sorted(range(7), key=lambda i: (times[i], i))
        for most in (1, 3, 6, 7, 100):
            found = [one.event_id for one in store.events_of("u", most)]
            assert found == [f"e{i}" for i in order][-most:]

    def test_entities_come_in_the_order_in_which_they_came(self, store):
        names = ["b", "a", "z", "10", "9", "é", "a/b"]
        for name in names:
            store.put_entity("item", name, f'{{"title": "{name}"}}')
        store.put_entity("user", "a", "{}")
        store.put_entity("item", "a", '{"title": "another"}').result()
        expected = [(name, f'{{"title": "{name}"}}') for name in names]
        assert store.entities("item") == expected
        assert store.entities("user") == [("a", "{}")]

    def test_an_erased_user_is_gone_and_others_are_not(self, store):
        store.add_events([event(i, "u" if i % 2 else "v") for i in range(10)])
        for kind, name in (("user", "u"), ("user", "v"), ("item", "u")):
            store.put_entity(kind, name, "{}")
        assert store.erase_user("u", 5).result() == 5
        assert store.events_of("u", 10) == []
        assert len(store.events_of("v", 10)) == 5
        assert store.entities("user") == [("v", "{}")]
        assert store.entities("item") == [("u", "{}")]
        assert store.erased() == {"u": 5}
        assert store.erase_user("u", 7).result() == 0
        assert store.erase_user("never", 8).result() == 0
        assert store.erased() == {"u": 7, "never": 8}
        assert store.add_events([event(1, "u")]).result() == 1  # its id is free again
        assert store.events_of("u", 10) == [event(1, "u")]

    def test_facts(self, store):
        assert store.fact("credit") is None
        store.set_fact("credit", "1.5")
        store.set_fact("credit", "2.5").result()
        store.set_fact("other", "").result()
        assert (store.fact("credit"), store.fact("other")) == ("2.5", "")

    def test_all_of_it_is_there_when_it_is_opened_again(self, place):
        with opened(place) as store:
            store.add_events([event(1), event(2)])
            store.put_entity("item", "a", "{}")
            store.put_entity("item", "b", "{}")
            store.erase_user("v", 3)
            store.set_fact("credit", "1")  # close finishes what waits
        with opened(place) as store:
            assert store.events_of("u", 10) == [event(1), event(2)]
            store.put_entity("item", "0", "{}").result()
            assert [name for name, _ in store.entities("item")] == ["a", "b", "0"]
            assert store.erased() == {"v": 3}
            assert store.fact("credit") == "1"

    def test_another_version_is_refused(self, place):
        with opened(place) as store:
            store.set_fact("format", "99").result()
        with pytest.raises(StoreError, match="has format 99, this version reads 1") as told:
            Store(place)
        assert PASSWORD not in str(told.value)

    def test_many_threads_write_each_once(self, store):
        def write(worker):
            counts = []
            for number in range(40):
                own, shared = event(f"{worker}-{number}", f"u{worker}", time=number), event(number)
                counts.append(store.add_events([own, shared]).result())
                assert own in store.events_of(f"u{worker}", 100)  # its own write is read
            return sum(counts)

        with ThreadPoolExecutor(12) as pool:
            counts = list(pool.map(write, range(12)))
        assert sum(counts) == 12 * 40 + 40
        assert len(store.events_of("u", 1000)) == 40
        for worker in range(12):
            assert len(store.events_of(f"u{worker}", 1000)) == 40

    def test_what_waits_is_written_in_one_transaction(self, store):
        begun, go_on, seen = threading.Event(), threading.Event(), []

        def hold(_):
            begun.set()
            assert go_on.wait(20)

        def transaction(cursor):
            query = "SELECT 1" if not store.is_postgres else "SELECT txid_current()"
            seen.append(cursor.run(query)[0][0])

        first = store.write(hold)
        assert begun.wait(20)
        waiting = [store.add_events([event(number)]) for number in range(30)]
        for _ in range(10):
            waiting.append(store.write(transaction))
        time.sleep(0.05)
        assert not any(one.done() for one in waiting)
        assert store.events_of("u", 100) == []
        go_on.set()
        first.result(20)
        for one in waiting:
            one.result(20)
        assert len(store.events_of("u", 100)) == 30
        assert len(set(seen)) == 1

    def test_an_error_in_one_job_leaves_the_others(self, store):
        begun, go_on = threading.Event(), threading.Event()

        def hold(_):
            begun.set()
            assert go_on.wait(20)

        def half(cursor):
            cursor.run("INSERT INTO facts VALUES ('half', 'written')")
            raise ValueError("of the job")

        first = store.write(hold)
        assert begun.wait(20)
        jobs = []
        for number in range(6):
            jobs.append(store.add_events([event(number)]))
            wrong = half if number % 2 else lambda cursor: cursor.run("SELECT nonsense")
            jobs.append(store.write(wrong))
        go_on.set()
        first.result(20)
        for number, job in enumerate(jobs):
            if number % 2 == 0:
                assert job.result(20) == 1
            else:
                kind = ValueError if number % 4 == 3 else StoreError
                assert isinstance(job.exception(20), kind)
        assert len(store.events_of("u", 100)) == 6
        assert store.fact("half") is None
        assert store.add_events([event(7)]).result(20) == 1

    def test_an_event_that_cannot_be_kept_leaves_the_rest_of_its_request_out(self, store):
        wrong = Event("w", "u", "i", 5, None, None)._replace(user=None)
        job = store.add_events([event(1), wrong, event(2)])
        assert isinstance(job.exception(20), StoreError)
        assert store.events_of("u", 10) == []
        assert store.add_events([event(1)]).result(20) == 1

    def test_who_no_longer_waits_does_not_stop_the_writer(self, store):
        begun, go_on = threading.Event(), threading.Event()

        def hold(_):
            begun.set()
            assert go_on.wait(20)

        first = store.write(hold)
        assert begun.wait(20)

        async def leave():
            waiting = asyncio.ensure_future(asyncio.wrap_future(store.add_events([event(1)])))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])

        asyncio.run(leave())
        go_on.set()
        first.result(20)
        assert store.add_events([event(2)]).result(20) == 1
        assert store.events_of("u", 10) == [event(1), event(2)]

    def test_another_process_is_read(self, place, store):
        """Two services share one store."""
        with opened(place) as other:
            other.add_events([event(1)]).result()
            assert store.events_of("u", 10) == [event(1)]
            assert store.add_events([event(1), event(2)]).result() == 1
            assert other.events_of("u", 10) == [event(1), event(2)]
            store.put_entity("item", "a", "1").result()
            other.put_entity("item", "a", "2").result()
            assert store.entities("item") == [("a", "1")]


class TestSqlite:
    """What only a file may be."""

    def test_a_place_that_cannot_be_written(self, tmp_path):
        (tmp_path / "file").write_text("")
        (tmp_path / "folder").mkdir()
        for place in (tmp_path / "folder", tmp_path / "file" / "store.sqlite"):
            with pytest.raises((StoreError, OSError)) as told:
                Store(str(place))
            assert "\n" not in str(told.value)

    def test_a_file_that_is_no_store(self, tmp_path):
        file = tmp_path / "store.sqlite"
        file.write_bytes(b"this is no database " * 1000)
        with pytest.raises(StoreError, match=r"store\.sqlite: file is not a database"):
            Store(str(file))
        assert file.read_bytes().startswith(b"this is no database")

    def test_a_damaged_file_is_an_error_and_not_an_answer(self, tmp_path):
        place = str(tmp_path / "store.sqlite")
        with opened(place) as store:
            store.add_events([event(i, f"u{i % 50}") for i in range(5000)]).result()
        content = bytearray(Path(place).read_bytes())
        for page in range(2, len(content) // 4096):
            content[page * 4096 : page * 4096 + 100] = b"\xff" * 100
        Path(place).write_bytes(content)
        with pytest.raises(StoreError), opened(place) as store:
            store.events_of("u7", 100)

    def test_a_writer_elsewhere_is_waited_for(self, tmp_path):
        place = str(tmp_path / "store.sqlite")
        with opened(place) as store, contextlib.closing(sqlite3.connect(place)) as other:
            other.execute("BEGIN IMMEDIATE")
            waiting = store.add_events([event(1)])
            time.sleep(0.3)
            assert not waiting.done()
            assert store.events_of("u", 10) == []  # reads go on
            other.rollback()
            assert waiting.result(20) == 1

    def test_a_full_disk_has_an_error_of_its_own(self, tmp_path):
        with opened(str(tmp_path / "store.sqlite")) as store:
            store.add_events([event(1)]).result()
            store.write(lambda cursor: cursor.run("PRAGMA max_page_count = 20")).result()
            error = store.add_events([event("x" * 500 + str(i)) for i in range(500)]).exception(20)
            assert isinstance(error, StoreFullError)
            assert "its disk is full" in str(error)
            assert store.events_of("u", 10) == [event(1)]
            assert store.add_events([event(2)]).result(20) == 1


class TestPostgres:
    """What only a server may do: go away, and come back."""

    def test_a_server_that_cannot_be_reached(self, tmp_path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            url = f"postgresql://tester:{PASSWORD}@127.0.0.1:{free.getsockname()[1]}/x"
            with pytest.raises(StoreError, match="PostgreSQL store: cannot be reached") as told:
                Store(url)
        assert PASSWORD not in str(told.value)

    def test_a_wrong_password_is_not_told(self, postgres):
        url = postgres.url("store0").replace(PASSWORD, "another-secret")
        with pytest.raises(StoreError) as told:
            Store(url)
        assert "secret" not in str(told.value)
        assert "\n" not in str(told.value)

    def test_without_its_driver_it_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
        with pytest.raises(ConfigError, match=r"pip install 'corellarec\[postgres\]'"):
            Store("postgresql://127.0.0.1:1/x")

    def test_a_server_that_goes_away_and_comes_back(self, postgres):
        place = postgres.url()
        with opened(place) as store:
            assert store.add_events([event(1)]).result(20) == 1
            assert store.events_of("u", 10) == [event(1)]
            postgres.stop()
            try:
                for _ in range(2):
                    assert isinstance(store.add_events([event(2)]).exception(20), StoreError)
                    with pytest.raises(StoreError, match="cannot be reached") as told:
                        store.events_of("u", 10)
                    assert PASSWORD not in str(told.value)
            finally:
                postgres.start()
            assert store.add_events([event(2), event(1)]).result(20) == 1
            assert store.events_of("u", 10) == [event(1), event(2)]
            postgres.stop()
            postgres.start()  # in between nobody asked: connections are dead, and not known to be
            with contextlib.suppress(StoreError):
                store.events_of("u", 10)
            assert store.events_of("u", 10) == [event(1), event(2)]
            first = store.add_events([event(3)])
            first.exception(20)
            assert store.add_events([event(3)]).result(20) == (1 if first.exception() else 0)

    def test_a_statement_that_waits_too_long_is_an_error(self, postgres, monkeypatch):
        monkeypatch.setattr("corellarec.serve.store.WAIT_S", 1)
        place = postgres.url()
        with opened(place) as store, opened(place) as other:
            store.add_events([event(1)]).result(20)
            go_on, begun = threading.Event(), threading.Event()

            def lock(cursor):
                cursor.run("LOCK TABLE events")
                begun.set()
                assert go_on.wait(20)

            locked = other.write(lock)
            assert begun.wait(20)
            with pytest.raises(StoreError):
                store.events_of("u", 10)
            assert isinstance(store.add_events([event(2)]).exception(20), StoreError)
            go_on.set()
            locked.result(20)
            assert store.add_events([event(2)]).result(20) == 1
            assert store.events_of("u", 10) == [event(1), event(2)]

    def test_answers_go_on_without_the_store(self, postgres, make_service):
        service = make_service(place=postgres.url())
        events = [
            {
                "event_id": f"e{i}",
                "user": "3",
                "item": str(i + 1),
                "label": i % 2,
                "time": 10**9 + i,
            }
            for i in range(8)
        ]
        more = {"event_id": "more", "user": "3", "item": "20", "label": 1}
        body = {"user": "3", "candidates": ["7", "8", "30"]}
        with client_of(service) as client:

            def ask(user="3", path="/v1/score"):
                found = client.post(path, json={**body, "user": user})
                assert found.status_code == 200, found.text
                return found.json()

            log_only = ask()
            assert not log_only["degraded"]
            assert client.post("/v1/events", json={"events": events}).status_code == 200
            whole = ask()
            assert whole["candidates"] != log_only["candidates"]
            postgres.stop()
            try:
                assert ask()["candidates"] == whole["candidates"]  # it is kept in memory
                assert not ask()["degraded"]
                stranger = ask("5")
                assert stranger["degraded"]
                assert all(0 < row["p"] < 1 for row in stranger["candidates"])
                assert ask("6", "/v1/recommend")["degraded"]
                for sent in (
                    client.post("/v1/events", json={"events": [more]}),
                    client.put("/v1/items/new", json={"title": "A"}),
                    client.delete("/v1/users/3"),
                ):
                    assert sent.status_code == 503, sent.text
                    assert sent.headers["content-type"] == "application/problem+json"
                    assert sent.headers["retry-after"] == "1"
                    assert PASSWORD not in sent.text
                assert client.get("/readyz").status_code == 200
                assert client.get("/metrics").status_code == 200
            finally:
                postgres.start()
            sent = client.post("/v1/events", json={"events": [more]})
            assert sent.json() == {"accepted": 1, "duplicates": 0}
            assert not ask("5")["degraded"]
            assert ask()["candidates"] != whole["candidates"]
            assert client.put("/v1/items/new", json={"title": "A"}).json() == {"added": True}
