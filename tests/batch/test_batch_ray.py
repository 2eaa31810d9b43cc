"""Ray, started here on the loopback: the same output, on from where the other engine stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from threading import Thread

import psutil
import pytest

import corellarec as cr
from batch.jobs import all_pairs, job, routing, write_input
from corellarec.base.errors import CorellarecError
from corellarec.batch import shard as shard_module
from corellarec.batch.job import JobDirectory

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
def cluster():
    """One cluster for all tests."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    yield
    ray.shutdown()


def test_ray_writes_what_one_process_writes(given, tmp_path):
    cascade, source, load, expected = given
    done = job(cascade, source, tmp_path / "out", load, engine="ray", workers=2, shard_rows=90)
    assert done.scored_now == 7
    assert totals(tmp_path / "out") == expected


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


def test_ray_goes_on_where_processes_stopped(given, tmp_path, monkeypatch):
    cascade, source, load, expected = given
    whole = shard_module.ShardScorer._llm

    def stops(self, shard, table):
        if shard == 4:
            raise OSError("stopped")
        whole(self, shard, table)

    with monkeypatch.context() as patch:
        patch.setattr(shard_module.ShardScorer, "_llm", stops)
        with pytest.raises(OSError, match="stopped"):
            job(cascade, source, tmp_path / "out", load, shard_rows=90)
    done = job(cascade, source, tmp_path / "out", load, engine="ray", shard_rows=90)
    assert done.scored_now == 3
    assert totals(tmp_path / "out") == expected


def test_an_error_of_an_actor_is_one_line(given, tmp_path, monkeypatch):
    cascade, source, load, _ = given
    out = tmp_path / "out"
    directory = JobDirectory(out)

    def damaged(*_):
        directory.shard(3).write_bytes(b"")
        return False

    with monkeypatch.context() as patch:
        patch.setattr("corellarec.batch.score.has_crm", damaged)
        with pytest.raises(
            CorellarecError, match="000003.parquet is not as it was written"
        ) as found:
            job(cascade, source, out, load, engine="ray", shard_rows=90)
    assert "Traceback" not in str(found.value)


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


def command_of(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []
