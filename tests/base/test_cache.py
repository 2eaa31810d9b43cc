import hashlib
import http.server
import threading
import zipfile
from pathlib import Path

import pytest

from corellarec.base import cache
from corellarec.base.errors import CorellarecError, FetchError

CONTENT = b"x" * 300_000


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/none":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
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
    assert list(folder.iterdir()) == []
    cache.download(f"{url}/a", path, hashlib.sha256(CONTENT).hexdigest())
    assert path.read_bytes() == CONTENT
    assert [file.name for file in folder.iterdir()] == ["a.zip"]
    assert capsys.readouterr().out == ""


def test_a_download_that_takes_too_long_ends(folder, url):
    with pytest.raises(TimeoutError, match="takes too long"):
        cache.download(f"{url}/a", folder / "a", hashlib.sha256(CONTENT).hexdigest(), timeout_s=-1)
    assert list(folder.iterdir()) == []


def test_errors_of_the_network_are_errors_of_the_system(folder, url):
    with pytest.raises(OSError, match="404"):
        cache.download(f"{url}/none", folder / "a", "0" * 64)
    with pytest.raises(OSError, match="refused"):
        cache.download("http://127.0.0.1:9/a", folder / "a", "0" * 64)
    assert list(folder.iterdir()) == []


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
