import contextlib
import hashlib
import http.server
import threading
import time
import zipfile
from pathlib import Path
from typing import ClassVar

import pytest

from corellarec.base import cache
from corellarec.base.errors import CorellarecError, FetchError, UnreachableError

CONTENT = b"x" * 300_000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def visible(folder):
    """Names of what a cache holds, but for locks."""
    return [path.name for path in folder.iterdir() if path.suffix != ".lock"]


class Handler(http.server.BaseHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_GET(self):
        self.asked.append(self.path)
        if self.path == "/none":
            self.send_error(404)
            return
        self.send_response(302 if self.path == "/to-file" else 200)
        self.send_header("Location", "file:///etc/passwd")
        if self.path != "/endless":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        with contextlib.suppress(OSError):  # the other side has left
            if self.path == "/drip":
                for _ in range(100):
                    self.wfile.write(b"x")
                    self.wfile.flush()
                    time.sleep(0.05)
                return
            if self.path == "/slow":
                time.sleep(0.5)
            for _ in range(100 if self.path == "/endless" else 1):
                self.wfile.write(CONTENT)

    def log_message(self, format, *args):
        pass


@pytest.fixture
def url():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CORELLAREC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_cache_is_where_the_environment_says(folder, monkeypatch):
    assert cache.cache_dir() == folder
    monkeypatch.setenv("CORELLAREC_CACHE", "~/elsewhere")
    assert cache.cache_dir() == Path.home() / "elsewhere"
    monkeypatch.delenv("CORELLAREC_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache.cache_dir() == Path.home() / ".cache" / "corellarec"
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/me")
    assert cache.cache_dir() == Path("/var/cache/me/corellarec")


def test_a_download_is_checked_before_it_takes_its_name(folder, url, capsys):
    path = folder / "a.zip"
    with pytest.raises(FetchError, match=r"/a does not have the SHA-256 0000.*run again"):
        cache.download(f"{url}/a", path, "0" * 64)
    assert visible(folder) == []
    cache.download(f"{url}/a", path, hashlib.sha256(CONTENT).hexdigest())
    assert path.read_bytes() == CONTENT
    assert visible(folder) == ["a.zip"]
    assert path.stat().st_mode & 0o777 == 0o644
    assert capsys.readouterr().out == ""


def test_a_download_that_takes_too_long_ends(folder, url):
    start = time.monotonic()
    with pytest.raises(UnreachableError, match="/drip: not whole after 0.3 s"):
        cache.download(f"{url}/drip", folder / "a", DIGEST, timeout_s=0.3)
    assert time.monotonic() - start < 5
    assert visible(folder) == []


def test_a_download_that_is_too_large_ends(folder, url):
    with pytest.raises(FetchError, match="/endless sends more than 1 MiB"):
        cache.download(f"{url}/endless", folder / "a", DIGEST, limit=1 << 20)
    assert visible(folder) == []


def test_errors_of_the_network(folder, url):
    with pytest.raises(UnreachableError, match="404"):
        cache.download(f"{url}/none", folder / "a", "0" * 64)
    with pytest.raises(UnreachableError, match="failed"):
        cache.download("http://127.0.0.1:9/a", folder / "a", "0" * 64)
    with pytest.raises(UnreachableError, match="file://"):
        cache.download(f"{url}/to-file", folder / "a", "0" * 64)
    assert visible(folder) == []


def test_a_planted_link_is_not_written_through(folder, url, tmp_path):
    victim, folder = tmp_path / "victim", cache.cache_dir()
    victim.write_text("precious")
    folder.mkdir()
    for name in (".a.unfinished", ".a.x.unfinished", ".wheel.unfinished"):
        (folder / name).symlink_to(victim)
    cache.download(f"{url}/a", folder / "a", DIGEST)
    assert (folder / "a").read_bytes() == CONTENT
    (folder / "b").symlink_to(tmp_path / "nothing")
    cache.download(f"{url}/a", folder / "b", DIGEST)
    assert not (folder / "b").is_symlink()
    (folder / "c").symlink_to(victim)
    with pytest.raises(FetchError, match="/c: SHA-256 is"):
        cache.download(f"{url}/a", folder / "c", DIGEST)
    assert victim.read_text() == "precious"
    assert not (tmp_path / "nothing").exists()


def test_two_at_once_fetch_once(folder, url):
    errors = []

    def fetch():
        try:
            cache.download(f"{url}/slow", folder / "a", DIGEST)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=fetch) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert Handler.asked.count("/slow") == 1


def test_what_a_killed_process_left_is_removed(folder):
    left = folder / ".a.12ab.unfinished"
    left.mkdir(parents=True)
    (left / "a").write_text("half")
    with cache.obtaining(folder / "a") as work:
        assert work.parent == folder
        assert not left.exists()
    assert [path.name for path in folder.iterdir()] == [".a.lock"]


def pip_that(monkeypatch, tmp_path, code):
    """Another pip, first on the path of the program's Python."""
    package = tmp_path / "other" / "pip"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(
        "import pathlib, sys, time\ndest = pathlib.Path(sys.argv[sys.argv.index('--dest') + 1])\n"
        + code
    )
    monkeypatch.setenv("PYTHONPATH", str(package.parent))


def test_a_wheel_is_checked_and_kept(folder, monkeypatch, tmp_path):
    pip_that(monkeypatch, tmp_path, "(dest / 'a_b-1-py3-none-any.whl').write_text('x')")
    digest = hashlib.sha256(b"x").hexdigest()
    with pytest.raises(FetchError, match="SHA-256"):
        cache.download_wheel("a-b==1", "0" * 64)
    assert visible(folder) == []
    path = cache.download_wheel("a-b==1", digest)
    assert path == cache.wheel_path("a-b==1")
    pip_that(monkeypatch, tmp_path / "none", "sys.exit(1)")
    assert cache.download_wheel("a-b==1", digest) == path
    path.write_text("y")
    with pytest.raises(FetchError, match="SHA-256"):
        cache.download_wheel("a-b==1", digest)
    with pytest.raises(FetchError, match="pip exited with 1"):
        cache.download_wheel("b==1", digest)


def test_a_pip_that_loads_too_much_or_something_else(folder, monkeypatch, tmp_path):
    pip_that(monkeypatch, tmp_path, "(dest / 'a').write_bytes(bytes(1 << 21)); time.sleep(60)")
    with pytest.raises(FetchError, match="pip loads more than 1 MiB for a==1"):
        cache.download_wheel("a==1", "0" * 64, limit=1 << 20)
    pip_that(monkeypatch, tmp_path / "b", "(dest / 'a-1-cp311-linux.whl').touch()")
    with pytest.raises(FetchError, match="pip found no a-1-py3-none-any.whl"):
        cache.download_wheel("a==1", "0" * 64)
    assert visible(folder) == []


def test_a_failing_pip_says_what_to_do(folder, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(FetchError, match=r"pip could not download no-such-x==1.*PIP_INDEX_URL"):
        cache.download_wheel("no-such-x==1", "0" * 64)
    with pytest.raises(FetchError, match=r"pip did not download no-such-x==1 in 0\.01 s"):
        cache.download_wheel("no-such-x==1", "0" * 64, timeout_s=0.01)
    assert not list(folder.glob("*.whl"))


def test_a_wrong_checksum_names_the_file(tmp_path):
    (tmp_path / "f").write_text("x")
    with pytest.raises(FetchError, match=r"/f: SHA-256 is 2d711642.*delete it and run again"):
        cache.check(tmp_path / "f", "0" * 64)
    assert (tmp_path / "f").exists()
    cache.check(tmp_path / "f", hashlib.sha256(b"x").hexdigest())
    assert issubclass(FetchError, CorellarecError)


def test_a_member_of_an_archive_is_copied(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("in/x", "content")
    cache.extract(tmp_path / "a.zip", "in/x", tmp_path / "x")
    assert (tmp_path / "x").read_text() == "content"
    with pytest.raises(FetchError, match=r"a\.zip has no in/y"):
        cache.extract(tmp_path / "a.zip", "in/y", tmp_path / "y")
