"""The parts that need no service: the budget, the breaker, the CRM's queue, keys, settings."""

import asyncio
import hashlib
import json
import threading
import time
from collections import deque
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from corellarec.base.errors import ConfigError
from corellarec.config.section import Section
from corellarec.serve import crm
from corellarec.serve.breaker import Breaker
from corellarec.serve.budget import LEASE, Bucket
from corellarec.serve.keys import SCOPES, find_key, make_key, read_keys
from corellarec.serve.server import check_address
from corellarec.serve.settings import ServeConfig, load_serve_config


@dataclass
class Clock:
    """Seconds that go on when they are told to."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


# The budget.


class Budget(RuleBasedStateMachine):
    """A bucket, the store that keeps its credit, and all that was earned and spent.

    A restart takes what the store may hold at that moment: the last value that was written, or,
    where a write is on its way or has failed, perhaps that one.
    """

    @initialize(
        burst=st.sampled_from([1, 10, 1000, 1500, 3000, 10_000]),
        share=st.floats(0, 1),
        rows_per_s=st.none() | st.floats(0.01, 5000),
        stored=st.floats(0, 5000),
    )
    def begin(self, burst, share, rows_per_s, stored):
        self.clock, self.burst, self.share, self.rows_per_s = Clock(), burst, share, rows_per_s
        self.may_hold, self.pending = {stored}, None
        self.earned, self.spent, self.out = stored, 0, 0
        self.start(stored)

    def start(self, credit):
        self.out = 0  # calls in work ended with the process
        self.bucket = Bucket(self.burst, self.share, self.rows_per_s, credit, self.clock)
        self.save()
        self.end_save("saved")  # the service waits for the first

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds):
        self.clock.now += seconds
        self.earned += (self.rows_per_s or 0.0) * seconds

    @rule(scored=st.integers(0, 5000), wanted=st.integers(0, 5000))
    def take(self, scored, wanted):
        if self.rows_per_s is None:
            self.earned += self.share * scored
        granted = self.bucket.take(scored, wanted)
        assert 0 <= granted <= wanted
        self.spent += granted
        self.out += granted

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def give_back(self, data):
        rows = data.draw(st.integers(1, self.out))
        self.bucket.give_back(rows)
        self.spent -= rows
        self.out -= rows

    @precondition(lambda self: self.pending is None)
    @rule()
    def save(self):
        self.pending = self.bucket.to_save()
        self.may_hold = self.may_hold | {self.pending}

    @precondition(lambda self: self.pending is not None)
    @rule(how=st.sampled_from(["saved", "failed", "failed and kept"]))
    def end_save(self, how):
        value, self.pending = self.pending, None
        if how == "saved":
            self.bucket.saved(value)
            self.may_hold = {value}
        elif how == "failed and kept":  # the writer was not told
            self.may_hold = {value}

    @rule(data=st.data())
    def crash(self, data):
        held = data.draw(st.sampled_from(sorted(self.may_hold)))
        self.pending, self.may_hold = None, {held}
        self.start(held)

    @rule()
    def stop(self):
        self.pending, self.may_hold = None, {self.bucket.level}
        self.start(self.bucket.level)

    @invariant()
    def never_spends_more_than_it_earns(self):
        if not hasattr(self, "bucket"):
            return
        slack = 1e-6 * (1 + self.earned)
        assert -1e-6 <= self.bucket.level <= self.burst
        assert self.spent + self.bucket.level <= self.earned + slack
        for stored in self.may_hold:
            assert self.spent + stored <= self.earned + slack


TestBudget = Budget.TestCase


def test_a_share_is_spent_in_full_and_no_further():
    bucket = Bucket(burst=10, share=0.25)
    assert [bucket.take(4, 4) for _ in range(5)] == [1] * 5
    assert [bucket.take(1, 1) for _ in range(4)] == [0, 0, 0, 1]
    assert bucket.take(1000, 1000) == 10  # the burst
    assert bucket.take(0, 1) == 0


def test_credit_comes_with_time():
    clock = Clock()
    bucket = Bucket(burst=100, rows_per_s=2, clock=clock)
    assert bucket.take(1000, 10) == 0
    clock.now += 2.5
    assert bucket.take(0, 10) == 5
    clock.now += 1000
    assert bucket.take(0, 1000) == 100


def test_stored_credit_is_spent_only_once_less_is_stored():
    bucket = Bucket(burst=10_000, credit=5000)
    assert bucket.take(0, 5000) == 0
    value = bucket.to_save()
    assert value == 5000 - LEASE
    assert bucket.take(0, 5000) == 0
    bucket.saved(value)
    assert bucket.take(0, 5000) == LEASE
    assert Bucket(burst=10_000, credit=value).level == value


def test_a_save_that_failed_holds_what_it_may_have_stored():
    bucket = Bucket(burst=10_000, share=1.0)
    bucket.saved(bucket.to_save())
    assert bucket.take(4000, 0) == 0
    higher = bucket.to_save()  # and nobody says whether it was stored
    assert higher == 3000
    assert bucket.take(0, 5000) == LEASE


def test_threads_spend_no_credit_twice():
    bucket, granted = Bucket(burst=1e6, share=0.5), []

    def spend():
        granted.append(sum(bucket.take(1, 1) for _ in range(2000)))

    threads = [threading.Thread(target=spend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(granted) == 8000


# The breaker.


class Breaking(RuleBasedStateMachine):
    """A breaker beside a plain account of what it is to do."""

    @initialize(failures=st.integers(1, 4), pause_s=st.sampled_from([0.5, 10.0]))
    def begin(self, failures, pause_s):
        self.clock, self.failures, self.pause_s = Clock(), failures, pause_s
        self.breaker = Breaker(failures, pause_s, self.clock)
        self.in_a_row, self.held_until = 0, 0.0

    @rule(seconds=st.sampled_from([0.1, 0.5, 3.0, 10.0]))
    def wait(self, seconds):
        self.clock.now += seconds

    @rule()
    def fail(self):
        self.breaker.failed()
        self.in_a_row += 1
        if self.in_a_row >= self.failures:
            self.held_until = self.clock.now + self.pause

    @property
    def pause(self):
        """A sixteenth first, twice as long after each further failure."""
        return min(self.pause_s, self.pause_s / 16 * 2 ** (self.in_a_row - self.failures))

    @rule()
    def succeed(self):
        self.breaker.succeeded()
        self.in_a_row = 0

    @rule()
    def call(self):
        opened = self.in_a_row >= self.failures
        assert self.breaker.is_open == opened
        if not opened:
            assert self.breaker.allows()
            return
        allowed = self.clock.now >= self.held_until
        assert self.breaker.allows() == allowed
        if allowed:  # one trial, until it ends or another pause is over
            self.held_until = self.clock.now + self.pause
            assert not self.breaker.allows()


TestBreaking = Breaking.TestCase


def test_a_trial_closes_the_breaker_or_opens_it_again():
    clock = Clock()
    breaker = Breaker(2, 16.0, clock)
    breaker.failed()
    assert breaker.allows()
    breaker.failed()
    assert not breaker.allows()
    for pause in (1, 2, 4, 8, 16, 16):
        clock.now += pause - 0.1
        assert not breaker.allows()
        clock.now += 0.2
        assert [breaker.allows() for _ in range(3)] == [True, False, False]
        breaker.failed()
    clock.now += 16
    assert breaker.allows()
    breaker.succeeded()
    assert all(breaker.allows() for _ in range(5))
    assert not breaker.is_open


# The CRM's queue.


class Held:
    """Stands in for the CRM: it answers when it is let go on."""

    def __init__(self, monkeypatch, seconds=0.0):
        self.begun, self.go_on, self.asked = threading.Semaphore(0), threading.Event(), []
        self.seconds = seconds
        monkeypatch.setattr(crm, "score", self.score)

    def score(self, model, reader, users, items):
        self.begun.release()
        self.asked.append([len(one) for one in items])
        assert self.go_on.wait(20)
        time.sleep(self.seconds)
        return [f"answer of {len(one)}" for one in items]

    def reader(self):
        return None


@pytest.fixture
def held(monkeypatch):
    return Held(monkeypatch)


@pytest.fixture
def queue(held):
    thread = crm.CrmThread(SimpleNamespace(of=lambda model, user: None), batch_rows=10)
    yield thread
    held.go_on.set()
    thread.close()


def ask(held, rows, seconds=20.0):
    return crm.Ask(held, "u", np.zeros(rows, np.int64), time.monotonic() + seconds)


def test_asks_that_wait_are_scored_together(held, queue):
    async def requests():
        asks = [ask(held, rows) for rows in (3, 4, 5, 1, 30, 2)]
        queue.submit(asks[0])
        assert await asyncio.to_thread(held.begun.acquire, timeout=20)
        for one in asks[1:]:
            queue.submit(one)
        assert queue.rows_waiting == 45
        held.go_on.set()
        return await asyncio.gather(*(one.future for one in asks))

    found = asyncio.run(requests())
    assert found == [f"answer of {rows}" for rows in (3, 4, 5, 1, 30, 2)]
    assert held.asked == [[3], [4, 5, 1], [30], [2]]  # in order, of at most ten rows, or alone


def test_an_ask_that_would_be_late_is_refused_when_it_comes(held, queue):
    async def requests():
        queue.seconds_per_row = 0.1
        alone = ask(held, 50, seconds=1.0)  # nothing waits: it is tried
        queue.submit(alone)
        assert await asyncio.to_thread(held.begun.acquire, timeout=20)
        with pytest.raises(crm.OverloadedError) as refused:
            queue.submit(ask(held, 10, seconds=5.0))
        assert refused.value.wait_s == pytest.approx(6.0)
        patient = ask(held, 10, seconds=7.0)
        queue.submit(patient)
        with pytest.raises(crm.OverloadedError):
            queue.submit(ask(held, 10, seconds=6.5))
        held.go_on.set()
        return await asyncio.gather(alone.future, patient.future)

    assert asyncio.run(requests()) == ["answer of 50", "answer of 10"]
    assert held.asked == [[50], [10]]
    assert until(lambda: queue.rows_waiting == 0)


def until(holds):
    """Whether something becomes true within a little while."""
    end = time.monotonic() + 10
    while not holds() and time.monotonic() < end:
        time.sleep(0.005)
    return holds()


def test_an_ask_that_became_late_is_not_scored(held, queue):
    async def requests():
        first, late, last = ask(held, 1), ask(held, 2, seconds=0.05), ask(held, 3)
        queue.submit(first)
        assert await asyncio.to_thread(held.begun.acquire, timeout=20)
        queue.submit(late)
        queue.submit(last)
        await asyncio.sleep(0.1)
        held.go_on.set()
        await asyncio.gather(first.future, last.future)
        return late.future.done()

    assert not asyncio.run(requests())
    assert held.asked == [[1], [3]]


def test_rows_have_the_mean_time_of_those_lately(monkeypatch):
    held = Held(monkeypatch, seconds=0.02)
    held.go_on.set()
    queue = crm.CrmThread(SimpleNamespace(of=lambda model, user: None), batch_rows=10)

    async def requests():
        for _ in range(30):
            one = ask(held, 2)
            queue.submit(one)
            await one.future

    asyncio.run(requests())
    queue.close()
    assert 0.009 < queue.seconds_per_row < 0.5


def test_an_error_is_the_batchs_own(held, queue, monkeypatch):
    held.go_on.set()

    async def requests():
        monkeypatch.setattr(crm, "score", lambda *_: 1 / 0)
        one = ask(held, 1)
        queue.submit(one)
        with pytest.raises(ZeroDivisionError):
            await one.future
        monkeypatch.setattr(crm, "score", held.score)
        one = ask(held, 2)
        queue.submit(one)
        return await one.future

    assert asyncio.run(requests()) == "answer of 2"
    assert until(lambda: queue.rows_waiting == 0)


@given(
    seconds_per_row=st.floats(0, 1),
    asks=st.lists(st.tuples(st.integers(1, 100), st.floats(0.0, 50.0)), min_size=1, max_size=30),
)
def test_the_queue_is_never_longer_than_can_be_answered(seconds_per_row, asks):
    """Whatever comes while the CRM works: what is admitted ends before its deadline."""

    async def requests():
        queue = crm.CrmThread.__new__(crm.CrmThread)  # without its thread: all of it waits
        queue.rows_waiting, queue.seconds_per_row = 7, seconds_per_row
        queue._asks, queue._wake = deque(), threading.Condition()
        begun = time.monotonic()
        for rows, seconds in asks:
            one = crm.Ask(None, "u", np.zeros(rows, np.int64), begun + seconds)
            before = queue.rows_waiting
            wait = (before + rows) * seconds_per_row
            if begun + wait <= one.deadline - 1:  # a second for this test itself
                queue.submit(one)
                assert queue.rows_waiting == before + rows
            elif begun + wait > one.deadline:
                with pytest.raises(crm.OverloadedError) as refused:
                    queue.submit(one)
                assert refused.value.wait_s == pytest.approx(wait)
                assert queue.rows_waiting == before

    asyncio.run(requests())


# Keys.


def test_only_hashes_are_kept(tmp_path):
    file = tmp_path / "service" / "keys.json"
    keys = {name: make_key(file, name, ["score"]) for name in ("a", "b", "a")}
    assert file.stat().st_mode & 0o777 == 0o600
    text = file.read_text()
    kept = json.loads(text)
    assert [one["name"] for one in kept] == ["b", "a"]
    for name, key in keys.items():
        assert key.startswith("clr_")
        assert len(key) >= 40
        assert key not in text
        assert key.removeprefix("clr_") not in text
        assert hashlib.sha256(key.encode()).hexdigest() in text
        assert find_key(read_keys(file), key).name == name
    assert sorted(path.name for path in file.parent.iterdir()) == ["keys.json"]


def test_a_file_that_others_may_read_is_closed_by_the_next_key(tmp_path):
    file = tmp_path / "keys.json"
    make_key(file, "a", ["score"])
    file.chmod(0o644)
    make_key(file, "b", ["events", "admin"])
    assert file.stat().st_mode & 0o777 == 0o600
    assert [(one.name, one.scopes) for one in read_keys(file)] == [
        ("a", ("score",)),
        ("b", ("events", "admin")),
    ]


def test_a_key_is_replaced_by_one_of_its_name(tmp_path):
    file = tmp_path / "keys.json"
    old, new = make_key(file, "a", ["score"]), make_key(file, "a", ["admin"])
    assert old != new
    assert find_key(read_keys(file), old) is None
    assert find_key(read_keys(file), new).scopes == ("admin",)


@given(st.text(max_size=60) | st.sampled_from(["", "clr_", "clr_x", "\udcff"]))
def test_no_other_text_is_a_key(given_text):
    keys = KEYS
    assert find_key(keys, given_text) is None
    assert find_key([], given_text) is None
    assert find_key(keys, keys[0].sha256) is None


@pytest.fixture(scope="module", autouse=True)
def some_keys(tmp_path_factory):
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    for name in SCOPES:
        make_key(file, name, [name])
    KEYS.extend(read_keys(file))


KEYS = []


def test_a_scope_that_does_not_exist(tmp_path):
    with pytest.raises(ConfigError, match=r"'root'.*score, events, explore, admin"):
        make_key(tmp_path / "keys.json", "a", ["score", "root"])
    assert not (tmp_path / "keys.json").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"{}",
        b"[1]",
        b'[{"name": "a"}]',
        b'[{"name": "a", "sha256": "00", "scopes": ["root"]}]',
        b'[{"name": "a", "sha256": "%s", "scopes": ["score"]}]' % "\u00e9".encode(),
    ],
)
def test_a_file_that_holds_no_keys(tmp_path, content):
    file = tmp_path / "keys.json"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="is no file of keys: delete it") as told:
        read_keys(file)
    assert str(file) in str(told.value)
    assert "\n" not in str(told.value)


# Settings.


def settings_of(section=ServeConfig, prefix=""):
    """Name, annotation and default of every setting."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from settings_of(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field


ALL = dict(settings_of())
WRONG = {
    bool: ['"maybe"', "2", "[]"],
    int: ["true", "1.5", '"x"', "-1", "10000000000", "[1]"],
    float: ["true", '"x"', "-1.0", "1e12", "nan", "inf", "[1.0]"],
    str: ["1", "true", "['a']", '"a\\u0000b"'],
}


def kind_of(field):
    text = str(field.annotation)
    return next(kind for kind in (bool, int, float, str) if kind.__name__ in text or kind is str)


def wrong_settings():
    return [
        pytest.param(name, value, id=f"{name}={value}")
        for name, field in ALL.items()
        for value in WRONG[kind_of(field)]
    ]


def load(tmp_path, text, **changes):
    file = tmp_path / "serve.toml"
    file.write_text(text)
    return load_serve_config(file, changes)


@pytest.mark.parametrize(("name", "value"), wrong_settings())
def test_a_wrong_value_is_one_line_that_names_the_setting(tmp_path, name, value):
    section, _, key = name.rpartition(".")
    text = (f"[{section}]\n" if section else "") + f"{key} = {value}\n"
    with pytest.raises(ConfigError) as told:
        load(tmp_path, text)
    assert key in str(told.value)
    assert section in str(told.value)
    assert "serve.toml" in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", [name for name in ALL if "." in name])
def test_an_unknown_setting_is_one_line_with_the_nearest_that_exists(tmp_path, name):
    section, _, key = name.rpartition(".")
    with pytest.raises(ConfigError) as told:
        load(tmp_path, f"[{section}]\n{key}x = 1\n")
    assert f"unknown setting '{name}x'" in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("http = 5", ["http", "section"]),
        ("[https]\nport = 1", ["unknown setting", "https"]),
        ("port = 8000", ["unknown setting", "http.port"]),
        ("[http]\nport = 1\n[answer]\nmax_candidates = 0", ["http", "answer.max_candidates"]),
        ("[llm]\nplace = 'moon'", ["llm.place", "local"]),
        ("[llm]\nplace = 'server'", ["llm.server"]),
        ("[llm]\nserver = 'http://127.0.0.1:1'", ["llm.place", "server"]),
        ("[http", ["serve.toml"]),
    ],
)
def test_settings_that_do_not_fit(tmp_path, text, words):
    with pytest.raises(ConfigError) as told:
        load(tmp_path, text)
    assert "\n" not in str(told.value)
    if words != ["http", "answer.max_candidates"]:
        assert all(word in str(told.value) for word in words)
    else:
        assert "answer.max_candidates" in str(told.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="nowhere.toml"):
        load_serve_config(tmp_path / "nowhere.toml", {})


def test_the_command_line_stands_above_the_file(tmp_path):
    text = "[http]\nhost = '::1'\nport = 1\n[llm]\nplace = 'off'\n"
    assert load(tmp_path, text).http.port == 1
    found = load(tmp_path, text, **{"http.port": 2, "http.host": None, "llm.place": "local"})
    assert (found.http.port, found.http.host, found.llm.place) == (2, "::1", "local")
    assert load_serve_config(None, {"http.port": None}) == ServeConfig()
    with pytest.raises(ConfigError, match=r"^serve: http\.port"):
        load_serve_config(None, {"http.port": 70_000})


def test_every_setting_is_documented():
    for name, field in ALL.items():
        assert len(field.description or "") > 10, name


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_the_loopback_needs_no_keys(host):
    check_address(host, [], "keys.json")


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.168.1.7", "10.0.0.1", "example.org", "", "localhost.example.org"]
)
def test_an_address_that_others_reach_needs_keys(host):
    with pytest.raises(ConfigError, match="keys.json holds no keys") as told:
        check_address(host, [], "keys.json")
    assert repr(host) in str(told.value)
    assert "serve-key" in str(told.value)
    check_address(host, KEYS, "keys.json")
