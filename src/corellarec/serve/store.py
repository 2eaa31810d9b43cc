"""What came after the cascade's log: events, items, users, erasures; SQLite or PostgreSQL."""

import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from corellarec.base.errors import ConfigError, CorellarecError

T = TypeVar("T")
Kind = Literal["item", "user"]
MOST_JOBS = 500  # writes in one transaction
WAIT_S = 5  # for a lock, a connection, or a statement of PostgreSQL's
FORMAT = "1"
TABLES = (
    "CREATE TABLE IF NOT EXISTS events (event_id TEXT PRIMARY KEY, user_id TEXT NOT NULL, "
    "item_id TEXT NOT NULL, time BIGINT NOT NULL, label SMALLINT, rating DOUBLE PRECISION)",
    "CREATE INDEX IF NOT EXISTS events_of_user ON events (user_id, time)",
    "CREATE TABLE IF NOT EXISTS entities (kind TEXT, id TEXT, place BIGINT NOT NULL, "
    "attributes TEXT NOT NULL, PRIMARY KEY (kind, id))",
    "CREATE TABLE IF NOT EXISTS erased (user_id TEXT PRIMARY KEY, time BIGINT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
)


class StoreError(CorellarecError):
    """The store cannot be used."""


class StoreFullError(StoreError):
    """The store's disk is full."""


class Event(NamedTuple):
    """An interaction.

    Args:
        event_id: The caller's, by which it is known.
        user, item: Ids.
        time: Microseconds since 1970.
        label: 1 or 0; None where a rating is given.
        rating: In the log's scale, or None.
    """

    event_id: str
    user: str
    item: str
    time: int
    label: int | None
    rating: float | None


class Cursor:
    """Runs statements of either database: ``?`` stands for a value.

    Args:
        cursor: The driver's.
        mark: What the driver takes in place of ``?``.
    """

    def __init__(self, cursor: Any, mark: str) -> None:  # noqa: ANN401 (two drivers')
        self._cursor, self._mark = cursor, mark

    def run(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement; returns its rows."""
        self._cursor.execute(statement.replace("?", self._mark), values)
        return self._cursor.fetchall() if self._cursor.description else []

    def run_each(self, statement: str, rows: Sequence[Sequence[object]]) -> int:
        """Run a statement for each row of values; returns the number of rows changed."""
        if not rows:
            return 0
        self._cursor.executemany(statement.replace("?", self._mark), rows)
        return self._cursor.rowcount


@dataclass(frozen=True)
class _Job:
    work: Callable[[Cursor], Any]
    future: "Future[Any]"


class Store:
    """Events and entities on disk; one thread writes, in transactions of all that waits.

    What is acknowledged is on disk: SQLite runs with ``synchronous=FULL``.

    Args:
        place: Path of the SQLite file, or a ``postgresql://`` URL.

    Raises:
        StoreError: If it cannot be opened, or another version wrote it.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self.is_postgres = place.startswith(("postgresql://", "postgres://"))
        self._local = threading.local()
        self._open: set[Any] = set()  # connections of all threads
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        if not self.is_postgres:
            Path(place).parent.mkdir(parents=True, exist_ok=True)
        with self._errors():
            cursor = self._cursor()
            for statement in TABLES:
                cursor.run(statement)
            cursor.run(
                "INSERT INTO facts VALUES ('format', ?) ON CONFLICT (name) DO NOTHING", FORMAT
            )
        if (found := self.fact("format")) != FORMAT:
            self._forget_connection()
            raise StoreError(
                f"{self.name} has format {found}, this version reads {FORMAT}: name another store"
            )
        self._thread = threading.Thread(target=self._work, name="store", daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        """The place as messages show it, without a password."""
        return "the PostgreSQL store" if self.is_postgres else self.place

    def close(self) -> None:
        """Finish what waits to be written."""
        self._jobs.put(None)
        self._thread.join()
        while self._open:
            self._open.pop().close()

    # Writing.

    def write(self, work: Callable[[Cursor], T]) -> "Future[T]":
        """Run statements in the writer's next transaction; the future is set once it is on disk."""
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()  # who no longer waits for it does not undo it
        self._jobs.put(_Job(work, future))
        return future

    def add_events(self, events: Sequence[Event]) -> "Future[int]":
        """Add events that are not known by their ids; the result is how many there were."""
        return self.write(
            lambda cursor: cursor.run_each(
                "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (event_id) DO NOTHING",
                events,
            )
        )

    def put_entity(self, kind: Kind, identity: str, attributes: str) -> "Future[object]":
        """Keep an item's or a user's attributes (JSON); those of a known one stay."""
        return self.write(
            lambda cursor: cursor.run(
                "INSERT INTO entities SELECT ?, ?, COALESCE(MAX(place), 0) + 1, ? FROM entities "
                "WHERE TRUE ON CONFLICT (kind, id) DO NOTHING",
                kind,
                identity,
                attributes,
            )
        )

    def erase_user(self, user: str, now: int) -> "Future[int]":
        """Remove all of a user, and ignore the log's rows from now on; how many events there were.

        Args:
            user: Id.
            now: Microseconds since 1970; what comes later counts again.
        """

        def work(cursor: Cursor) -> int:
            count = cursor.run("SELECT COUNT(*) FROM events WHERE user_id = ?", user)[0][0]
            cursor.run("DELETE FROM events WHERE user_id = ?", user)
            cursor.run("DELETE FROM entities WHERE kind = 'user' AND id = ?", user)
            cursor.run(
                "INSERT INTO erased VALUES (?, ?) ON CONFLICT (user_id) DO UPDATE "
                "SET time = excluded.time",
                user,
                now,
            )
            return count

        return self.write(work)

    def set_fact(self, name: str, value: str) -> "Future[object]":
        """Keep a value by name."""
        return self.write(
            lambda cursor: cursor.run(
                "INSERT INTO facts VALUES (?, ?) ON CONFLICT (name) DO UPDATE "
                "SET value = excluded.value",
                name,
                value,
            )
        )

    # Reading, from any thread.

    def events_of(self, user: str, most: int) -> list[Event]:
        """The newest events of a user, oldest first."""
        with self._errors():
            found = self._cursor().run(
                "SELECT event_id, user_id, item_id, time, label, rating FROM events "
                "WHERE user_id = ? ORDER BY time DESC, event_id DESC LIMIT ?",
                user,
                most,
            )
        return [Event(*row) for row in reversed(found)]

    def all_events(self) -> list[Event]:
        """All events, in no order."""
        with self._errors():
            found = self._cursor().run(
                "SELECT event_id, user_id, item_id, time, label, rating FROM events"
            )
        return [Event(*row) for row in found]

    def entities(self, kind: Kind) -> list[tuple[str, str]]:
        """Ids and attributes (JSON), in the order in which they came."""
        with self._errors():
            found = self._cursor().run(
                "SELECT id, attributes FROM entities WHERE kind = ? ORDER BY place, id", kind
            )
        return [(row[0], row[1]) for row in found]

    def erased(self) -> dict[str, int]:
        """When users were erased, microseconds since 1970."""
        with self._errors():
            return dict(self._cursor().run("SELECT user_id, time FROM erased"))  # pyright: ignore[reportArgumentType, reportCallIssue]

    def fact(self, name: str) -> str | None:
        """A kept value."""
        with self._errors():
            found = self._cursor().run("SELECT value FROM facts WHERE name = ?", name)
        return found[0][0] if found else None

    # Parts of the above.

    def _work(self) -> None:
        """The writer's thread."""
        ended = False
        while not ended:
            jobs = [self._jobs.get()]
            while len(jobs) < MOST_JOBS and not self._jobs.empty():
                jobs.append(self._jobs.get())
            ended = None in jobs
            self._commit([job for job in jobs if job is not None])

    def _commit(self, jobs: Sequence[_Job]) -> None:
        if not jobs:
            return
        try:
            with self._errors():
                cursor = self._cursor()
                cursor.run("BEGIN" if self.is_postgres else "BEGIN IMMEDIATE")
                results = [job.work(cursor) for job in jobs]
                cursor.run("COMMIT")
        except Exception as error:  # what a job raises is the job's
            self._forget_connection()
            if len(jobs) > 1:  # one of them: each on its own
                for job in jobs:
                    self._commit([job])
                return
            jobs[0].future.set_exception(error)
        else:
            for job, result in zip(jobs, results, strict=True):
                job.future.set_result(result)

    def _cursor(self) -> Cursor:
        """A cursor of this thread's connection."""
        if getattr(self._local, "connection", None) is None:
            self._local.connection = self._connect()
            self._open.add(self._local.connection)
            if self.is_postgres:
                self._local.connection.execute(f"SET statement_timeout = {1000 * WAIT_S}")
        return Cursor(self._local.connection.cursor(), "%s" if self.is_postgres else "?")

    def _connect(self) -> Any:  # noqa: ANN401 (two drivers')
        if self.is_postgres:
            return _psycopg().connect(
                self.place, autocommit=True, connect_timeout=WAIT_S, tcp_user_timeout=1000 * WAIT_S
            )
        connection = sqlite3.connect(
            self.place, timeout=WAIT_S, isolation_level=None, check_same_thread=False
        )  # each thread has its own, and the last closes all
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    def _forget_connection(self) -> None:
        connection = getattr(self._local, "connection", None)
        self._local.connection = None
        if connection is not None:
            self._open.discard(connection)
            with contextlib.suppress(Exception):  # of a connection that is lost
                connection.rollback()  # SQLite's lock outlives a close while an error is kept
            connection.close()

    def _errors(self) -> "_Errors":
        return _Errors(self)


class _Errors:
    """Errors of a driver as :class:`StoreError`; the thread's connection is made anew after one."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        drivers: tuple[type[BaseException], ...] = (sqlite3.Error, OSError)
        if self.store.is_postgres:
            drivers = (*drivers, _psycopg().Error)
        if isinstance(error, drivers):
            self.store._forget_connection()
            name, first = self.store.name, (str(error).strip() or type(error).__name__)
            first = "cannot be reached" if self.store.is_postgres else first.splitlines()[0]
            if "disk is full" in str(error) or "No space left" in str(error):
                raise StoreFullError(f"{name}: its disk is full") from error
            raise StoreError(f"{name}: {first}") from error


def _psycopg() -> Any:  # noqa: ANN401 (a module that may not be installed)
    try:
        import psycopg
    except ImportError as error:
        raise ConfigError(
            "a PostgreSQL store needs psycopg: pip install 'corellarec[postgres]'"
        ) from error
    return psycopg
