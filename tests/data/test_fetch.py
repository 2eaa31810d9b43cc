import hashlib

import pytest

from corellarec.base.errors import FetchError
from corellarec.data import fetch

CONTENT = b"a zip"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("CORELLAREC_CACHE", str(folder))
    monkeypatch.setitem(fetch.MOVIELENS_SHA256, "ml-100k", hashlib.sha256(CONTENT).hexdigest())
    return folder


@pytest.fixture
def asked(monkeypatch):
    """What is downloaded, from a GroupLens that answers."""
    calls = []

    def download(url, path, digest):
        calls.append(url)
        path.write_bytes(CONTENT)

    monkeypatch.setattr(fetch, "download", download)
    return calls


def test_the_official_zip_is_fetched_once(cache, asked):
    for _ in range(2):
        assert fetch.fetch_movielens("ml-100k") == cache / "ml-100k.zip"
    assert asked == ["https://files.grouplens.org/datasets/movielens/ml-100k.zip"]


def test_a_cached_file_that_changed_is_refused(cache, asked):
    path = fetch.fetch_movielens("ml-100k")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FetchError, match=r"ml-100k\.zip: SHA-256 is"):
        fetch.fetch_movielens("ml-100k")


def test_a_download_of_another_checksum_is_no_reason_for_the_wheel(cache, monkeypatch):
    def damaged(*_):
        raise FetchError("another SHA-256")

    monkeypatch.setattr(fetch, "download", damaged)
    with pytest.raises(FetchError, match="another SHA-256"):
        fetch.fetch_movielens("ml-100k")


def test_out_of_reach_the_wheel_serves(cache, monkeypatch, capsys):
    wheels = []

    def wheel(*arguments):
        wheels.append(arguments)
        return cache / "wheel.whl"

    monkeypatch.setattr(fetch, "GROUPLENS", "http://127.0.0.1:9/{}.zip")
    monkeypatch.setattr(fetch, "download_wheel", wheel)
    assert fetch.fetch_movielens("ml-100k") == cache / "wheel.whl"
    assert wheels == [fetch.RECBOLE]
    with pytest.raises(FetchError, match=r"failed\): try again.*ml-1m\.zip that you") as error:
        fetch.fetch_movielens("ml-1m")
    assert len(str(error.value)) < 250  # the reason without the classes of the network's libraries
