"""Ray, started here on the loopback: the same output, on from where the other engine stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from threading import Thread

import polars as pl
import psutil
import pytest

import corellarec as cr
from batch.jobs import ROWS, all_pairs, job, routing, write_input
from corellarec.base.errors import ArtifactError, CorellarecError, WorkerError
from corellarec.base.ray import on_ray
from corellarec.batch import shard as shard_module
from corellarec.batch.folder import LocalFolder
from corellarec.batch.freeze import frozen_input
from research import ray_runs

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.fixture(scope="module")
def given(finished, tmp_path_factory):
    """A cascade that routes, its input, what loads it, and totals of its output."""
    folder = tmp_path_factory.mktemp("ray")
    cascade = routing(finished[0], folder / "cascade")
    source = write_input(folder / "in", all_pairs())
    load = partial(cr.Cascade.load, cascade, device="cpu")
    job(cascade, source, folder / "out", load, shard_rows=90)
    return cascade, source, load, totals(folder / "out")


def totals(output):
    return json.loads((output / "_SUCCESS").read_text())


@pytest.fixture(scope="module", autouse=True)
def cluster(s3):
    """One cluster for all tests, whose actors find the object store."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    yield
    ray.shutdown()


@pytest.mark.hard
def test_ray_writes_what_one_process_writes(given, tmp_path):
    cascade, source, load, expected = given
    done = job(cascade, source, tmp_path / "out", load, engine="ray", workers=2, shard_rows=90)
    assert done.scored_now == 7
    assert totals(tmp_path / "out") == expected


def test_predict_and_all_engines_answer_alike(finished, given, tmp_path):
    """Every column of every row, bit by bit: predict reads each shard's rows in their order."""
    cascade = routing(finished[0], tmp_path / "cascade", budget=1.0, threshold=0.67)
    load = partial(cr.Cascade.load, cascade, device="cpu")
    ways = {"one": {"workers": 1}, "two": {"workers": 2}, "ray": {"engine": "ray"}}
    for name, way in ways.items():
        job(cascade, given[1], tmp_path / name, load, shard_rows=210, **way)
    predicts, routed = load(), 0
    for part in sorted((tmp_path / "one").glob("part-*.parquet")):
        assert part.read_bytes() == (tmp_path / "two" / part.name).read_bytes()
        assert part.read_bytes() == (tmp_path / "ray" / part.name).read_bytes()
        output = pl.read_parquet(part)
        assert predicts.predict(output.select(all_pairs().columns)).equals(output)
        routed += (output["source"] != "crm").sum()
    assert 0 < routed < ROWS


@pytest.mark.hard
def test_the_command_joins_the_cluster_that_is_named(given, tmp_path):
    cascade, source, _, expected = given
    command = [sys.executable, "-m", "corellarec", "score", cascade, source, tmp_path / "out"]
    more = ["--engine", "ray", "--workers", "1", "--shard-rows", "90", "--device", "cpu", "--json"]
    cluster = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    done = subprocess.run(
        [*command, *more], capture_output=True, text=True, env=os.environ | cluster, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == expected["rows"]
    assert totals(tmp_path / "out") == expected


def test_ray_goes_on_where_processes_stopped_in_a_store(s3, given, monkeypatch):
    cascade, source, load, expected = given
    for path in Path(source).iterdir():
        s3.objects[f"bucket/in/{path.name}"] = path.read_bytes()
    whole = shard_module.ShardScorer._llm

    def stops(self, shard, table):
        if shard == 4:
            raise OSError("stopped")
        return whole(self, shard, table)

    places = "s3://bucket/in", "s3://bucket/out"
    with monkeypatch.context() as patch:
        patch.setattr(shard_module.ShardScorer, "_llm", stops)
        with pytest.raises(OSError, match="stopped"):
            job(cascade, *places, load, shard_rows=90)
    done = job(cascade, *places, load, engine="ray", shard_rows=90)
    assert done.scored_now == 3
    assert json.loads(s3.objects["bucket/out/_SUCCESS"]) == expected
    assert not [key for key in s3.objects if key.startswith("bucket/out/_work")]


def test_an_error_of_an_actor_is_one_line():
    def damaged(place):
        raise ArtifactError(f"{place} is not as it was written")

    with pytest.raises(CorellarecError) as found, on_ray(lambda: damaged, 1) as mapped:
        list(mapped(["000003.parquet"]))
    assert str(found.value) == "000003.parquet is not as it was written"


def test_ray_that_does_not_start_is_one_line(monkeypatch):
    def fails(**_):
        raise Exception("The current node timed out\nduring startup")  # noqa: TRY002 (as Ray does)

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fails)
    with pytest.raises(WorkerError) as found, on_ray(lambda: str, 1):
        pass
    assert str(found.value) == (
        "Ray did not start (The current node timed out): run the same command again to go on"
    )


@pytest.mark.hard
def test_an_actor_that_meets_a_damaged_shard_says_so(given, tmp_path, monkeypatch):
    cascade, source, load, _ = given
    out = tmp_path / "out"
    folder = LocalFolder(out)

    def damaged(*_):
        (out / frozen_input(folder).file(3)).write_bytes(b"")
        return False

    with monkeypatch.context() as patch:
        patch.setattr("corellarec.batch.score.has_crm", damaged)
        with pytest.raises(
            CorellarecError, match="000003.parquet is not as it was written"
        ) as found:
            job(cascade, source, out, load, engine="ray", shard_rows=90)
    assert "Traceback" not in str(found.value)


@pytest.mark.hard
def test_killed_actors_are_replaced(given, tmp_path):
    cascade, source, load, expected = given
    killed = []

    def kill():
        deadline = time.monotonic() + 60
        while not killed and time.monotonic() < deadline:
            for one in psutil.Process().children(recursive=True):
                name = " ".join(command_of(one))
                if "ray::_Worker" in name:
                    os.kill(one.pid, signal.SIGKILL)
                    killed.append(name)
                    return
            time.sleep(0.05)

    thread = Thread(target=kill)
    thread.start()
    done = job(cascade, source, tmp_path / "out", load, engine="ray", workers=2, shard_rows=90)
    thread.join()
    assert killed
    assert done.scored_now == 7
    assert totals(tmp_path / "out") == expected


@pytest.mark.hard
def test_trials_are_shared_by_actors(tiny_settings, tmp_path):
    first, more = ray_runs.search(tiny_settings, tmp_path / "search", 3)
    assert first.trials >= 3
    assert more.trials == first.trials + 2
    drawn = [tuple(trial.settings.values()) for trial in more.finished]
    assert len(set(drawn)) == len(drawn)  # actors that begin together do not draw the same
    assert (tmp_path / "search" / "best.toml").exists()


@pytest.mark.hard
def test_cells_are_shared_by_actors(tiny_settings, tmp_path, monkeypatch):
    study, cells = ray_runs.study(tiny_settings, tmp_path)
    assert [cell.kind for cell in cells] == ["method", "crm", "crm", "ablation"]
    assert all(cell.seconds() for cell in cells)
    monkeypatch.setattr("corellarec.run.stages.train", None)  # all is done
    study.train()


def command_of(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []
