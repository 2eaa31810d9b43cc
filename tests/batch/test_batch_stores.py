"""Input and output in an object store, by S3's protocol on the loopback."""

import json
import os
import subprocess
import sys

import polars as pl
import pytest

from batch.jobs import ROWS, all_pairs, job, routing, write_input
from corellarec.base.errors import ConfigError, DataError, UnreachableError
from corellarec.batch import folder as folder_module
from corellarec.batch import shard as shard_module
from corellarec.batch.folder import StoredFolder, folder_of
from corellarec.batch.job import done_of, output_of
from corellarec.batch.source import input_files


@pytest.fixture(scope="module")
def given(s3, finished, tmp_path_factory):
    """A cascade, its input here, and the totals of the output that is written here."""
    folder = tmp_path_factory.mktemp("stores")
    cascade = routing(finished[0], folder / "cascade")
    source = write_input(folder / "in", all_pairs())
    for path in (folder / "in").iterdir():
        s3.objects[f"bucket/in/day=1/{path.name}"] = path.read_bytes()
    s3.objects["bucket/in/_hidden/x.parquet"] = s3.objects["bucket/in/day=1/readme.txt"] = b"x"
    job(cascade, source, folder / "out", shard_rows=90)
    return cascade, json.loads((folder / "out" / "_SUCCESS").read_text())


def totals(s3, name):
    return json.loads(s3.objects[f"bucket/{name}/_SUCCESS"])


def test_a_job_from_a_store_to_a_store(s3, given):
    cascade, expected = given
    assert job(cascade, "s3://bucket/in", "s3://bucket/out", shard_rows=90).scored_now == 7
    assert totals(s3, "out") == expected
    assert not [key for key in s3.objects if key.startswith("bucket/out/_work")]
    assert pl.read_parquet("s3://bucket/out/part-*.parquet").height == ROWS
    assert job(cascade, "s3://bucket/in", "s3://bucket/out/", shard_rows=90).scored_now == 0


def test_a_job_goes_on_in_a_store(s3, given, monkeypatch):
    cascade, expected = given
    whole = shard_module.ShardScorer._llm

    def stops(self, shard, table):
        if shard == 4:
            raise OSError("stopped")
        return whole(self, shard, table)

    with monkeypatch.context() as patch:
        patch.setattr(shard_module.ShardScorer, "_llm", stops)
        with pytest.raises(OSError, match="stopped"):
            job(cascade, "s3://bucket/in", "s3://bucket/again", shard_rows=90)
    folder = folder_of("s3://bucket/again")
    s3.objects[f"bucket/again/{output_of(1)}"] += b"x"  # damaged
    folder.remove(done_of(2))  # killed between the output and its note
    s3.puts.clear()
    done = job(cascade, "s3://bucket/in", "s3://bucket/again", shard_rows=90)
    assert done.scored_now == 5
    assert totals(s3, "again") == expected
    assert (f"bucket/again/{output_of(2)}", 412) in s3.puts  # the first one stays
    assert (f"bucket/again/{output_of(1)}", 200) in s3.puts


def test_the_first_writer_wins(s3):
    folder = folder_of("s3://bucket/first")
    assert folder.write("a/b", b"one") == b"one"
    assert folder.write("a/b", b"two") == b"one"
    assert folder.read("a/b") == b"one"
    assert folder.names() == ["a"]
    folder.remove("a")
    assert not folder.exists("a/b")
    assert folder.names() == []


def test_a_store_without_conditional_put_keeps_the_last(s3, monkeypatch):
    monkeypatch.setenv("AWS_CONDITIONAL_PUT", "disabled")
    folder = StoredFolder("s3://bucket/last")
    assert folder.write("a", b"one") == b"one"
    assert folder.write("a", b"two") == b"two"
    assert folder.read("a") == b"two"


def test_which_objects_are_the_input(s3, given):
    def names(source):
        return [file.path for file in input_files(source)]

    every = [f"s3://bucket/in/day=1/{number}.parquet" for number in range(3)]
    for source in ("", "in", "in/", "in/day=*/*.parquet", "in/**/*.parquet", "in/day=1"):
        found = [name for name in names(f"s3://bucket/{source}") if "/in/" in name]
        assert found == every, source
    assert names(every[1]) == [every[1]]
    with pytest.raises(DataError, match="no Parquet file there"):
        names("s3://bucket/none")
    assert input_files(every[1])[0].version


def test_the_input_in_a_store_is_never_overwritten(given):
    with pytest.raises(DataError, match="s3://bucket/in/ holds the input"):
        job(given[0], "s3://bucket/in", "s3://bucket/in/")


def test_what_cannot_be_used_is_one_line(s3, given, monkeypatch):
    with pytest.raises(ConfigError, match="'foo://bucket/x' cannot|foo://bucket/x cannot be used"):
        folder_of("foo://bucket/x")
    s3.refuse = 403
    try:
        with pytest.raises(UnreachableError, match="s3://bucket/out/_job.json: .*") as found:
            folder_of("s3://bucket/out").exists("_job.json")
        assert len(str(found.value).splitlines()) == 1
    finally:
        s3.refuse = 0
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    folder_module._store.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install 'corellarec\[cloud\]'"):
        job(given[0], "s3://bucket/in", "s3://bucket/out")


@pytest.mark.hard
def test_two_processes_write_to_a_store(s3, given):
    cascade, expected = given
    command = [sys.executable, "-m", "corellarec", "score", cascade, "s3://bucket/in"]
    more = ["s3://bucket/two", "--workers", "2", "--shard-rows", "90", "--device", "cpu", "--json"]
    done = subprocess.run(
        [*command, *more], capture_output=True, text=True, env=os.environ | s3.environment,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["output"] == "s3://bucket/two"
    assert totals(s3, "two") == expected
