"""A job of shards: the same answers as predict, every row once, on from where it stopped."""

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import corellarec as cr
from batch.jobs import ITEMS, ROUTED, ROWS, all_pairs, job, loader, read, routing, write_input
from command_line import call
from corellarec.base.errors import (
    ArtifactError,
    ConfigError,
    DataError,
    LockedError,
    RemoteError,
    WorkerError,
)
from corellarec.base.lock import locked
from corellarec.batch import shard as shard_module
from corellarec.batch.estimate import estimate
from corellarec.batch.folder import LocalFolder
from corellarec.batch.freeze import frozen_input
from corellarec.batch.job import SUCCESS, crm_file, done_of, output_of
from corellarec.batch.source import input_files
from corellarec.config import ExternalConfig
from corellarec.llm.load import load_model
from corellarec.llm.lora import load_adapter
from llm.vllm_server import ADAPTER, VllmServer


@pytest.fixture(scope="module")
def cascade(finished, tmp_path_factory):
    return routing(finished[0], tmp_path_factory.mktemp("cascade") / "routing")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_input(tmp_path_factory.mktemp("input") / "in", all_pairs())


@pytest.fixture(scope="module")
def expected(cascade, source, tmp_path_factory):
    """The job's output as one shard."""
    output = tmp_path_factory.mktemp("expected") / "out"
    job(cascade, source, output)
    return read(output)


def same(found, expected):
    """Same rows and decisions; probabilities are equal but for rounding in other batches."""
    others = ["p", "p_crm", "p_llm", "entropy"]
    assert found.drop(others).equals(expected.drop(others))
    for name in others:
        assert found[name].is_null().equals(expected[name].is_null())
        np.testing.assert_allclose(found[name].to_numpy(), expected[name].to_numpy(), atol=2e-5)


@pytest.mark.parametrize("budget", [0.1, 1.0])
def test_a_job_answers_as_predict_does(finished, source, tmp_path, budget):
    pairs = pl.read_parquet(f"{source}/*.parquet")
    crm = cr.Cascade.load(finished[0], device="cpu")
    crm.router = replace(crm.router, budget=0.0, hard=True)
    threshold = -1.0 if budget < 1 else float(crm.predict(pairs)["entropy"].quantile(0.9))
    directory = routing(finished[0], tmp_path / "cascade", budget=budget, threshold=threshold)
    predicted = cr.Cascade.load(directory, device="cpu").predict(pairs).sort("number")
    done = job(directory, source, tmp_path / "out")
    assert done.rows == ROWS
    assert done.unknown_users == ITEMS
    assert done.routed == (predicted["source"] != "crm").sum()
    assert done.routed == ROUTED or budget == 1
    same(read(tmp_path / "out"), predicted)


@pytest.mark.parametrize(
    ("shards", "workers"), [(2, 1), (7, 1), pytest.param(7, 2, marks=pytest.mark.hard)]
)
def test_the_same_rows_are_asked_whatever_the_shards(
    cascade, source, expected, tmp_path, shards, workers
):
    rows = -(-ROWS // shards)
    load = Loader(cascade)
    done = job(cascade, source, tmp_path / "out", load, workers=workers, shard_rows=rows)
    assert done.shards == shards
    assert done.routed == ROUTED
    same(read(tmp_path / "out"), expected)


class Loader:
    """Loads a cascade in another process, too."""

    def __init__(self, directory):
        self.directory = directory

    def __call__(self):
        return cr.Cascade.load(self.directory, device="cpu")


@pytest.mark.hard
def test_two_workers_write_what_one_writes(cascade, source, tmp_path):
    found = []
    for workers in (1, 2):
        out = tmp_path / str(workers)
        job(cascade, source, out, Loader(cascade), workers=workers, shard_rows=90)
        found.append(json.loads((out / "_SUCCESS").read_text()))
    assert found[0] == found[1]


def test_the_order_of_the_input_and_equal_values_change_nothing(cascade, tmp_path):
    pairs = pl.concat([all_pairs()[:200].drop("number")] * 3)
    found = []
    for seed, files in ((0, 1), (1, 4)):
        shuffled = pairs.sample(fraction=1, shuffle=True, seed=seed)
        source = write_input(tmp_path / f"in{seed}", shuffled, files)
        job(cascade, source, tmp_path / f"out{seed}", shard_rows=100 + 50 * seed)
        output = pl.read_parquet(tmp_path / f"out{seed}" / "part-*.parquet")
        assert (output["source"] != "crm").sum() == 60
        found.append(output.group_by("user", "item", "source").len().sort(pl.all()))
    assert found[0].equals(found[1])


@pytest.mark.parametrize("rows", [1, 9, 10, 19, 21])
def test_the_budget_is_never_exceeded(cascade, tmp_path, rows):
    source = write_input(tmp_path / "in", all_pairs()[:rows], 1)
    assert job(cascade, source, tmp_path / "out").routed == rows // 10


def test_shards_without_rows_are_scored_too(cascade, tmp_path):
    pairs = all_pairs()[:20]
    done = job(cascade, write_input(tmp_path / "in", pairs), tmp_path / "out", shard_rows=1)
    assert (done.shards, done.rows, done.routed) == (20, 20, 2)
    assert read(tmp_path / "out").select(pairs.columns).equals(pairs.sort("number"))


def test_times_and_other_columns_are_kept(finished, cascade, tmp_path):
    log = cr.Cascade.load(cascade, device="cpu").log
    rows = pl.DataFrame(
        {
            "number": np.arange(len(log)),
            "user": log.users["id"].gather(log.rows["user"]),
            "item": log.items["id"].gather(log.rows["item"]),
            "time": log.rows["time"],
            "note": [f"n{i}" for i in range(len(log))],
        }
    )
    source = write_input(tmp_path / "in", rows)
    job(cascade, source, tmp_path / "out", shard_rows=400)
    same(read(tmp_path / "out"), cr.Cascade.load(cascade, device="cpu").predict(rows))


def test_an_external_crm_needs_its_scores(cascade, tmp_path):
    directory = tmp_path / "cascade"
    external = cr.Cascade.load(cascade, device="cpu")
    crm = external.recipe.crm.model_copy(
        update={"model": "external", "external": ExternalConfig(scores="scores.parquet")}
    )
    external.recipe = replace(external.recipe, crm=crm)
    external.models.crm = None
    external.save(directory)
    pairs = all_pairs().with_columns(score=pl.col("number") / ROWS)
    with pytest.raises(DataError, match="no column 'score'"):
        job(directory, write_input(tmp_path / "without", all_pairs()), tmp_path / "out")
    bad = pairs.with_columns(score=pl.when(pl.col("number") == 7).then(2.0).otherwise("score"))
    with pytest.raises(DataError, match=r"row \d+: score 2.0 is not a probability"):
        job(directory, write_input(tmp_path / "bad", bad), tmp_path / "out2")
    job(directory, write_input(tmp_path / "in", pairs), tmp_path / "out3", shard_rows=90)
    predicted = cr.Cascade.load(directory, device="cpu").predict(pairs).sort("number")
    same(read(tmp_path / "out3"), predicted)


# Stopped and gone on.


@pytest.mark.parametrize("step", ["_crm", "_llm"])
def test_a_job_goes_on_where_it_stopped(cascade, source, expected, tmp_path, monkeypatch, step):
    output, began = tmp_path / "out", []
    whole = getattr(shard_module.ShardScorer, step)

    def stops(self, shard, table):
        began.append(shard)
        if len(began) == 4:
            raise OSError("no space left")
        return whole(self, shard, table)

    monkeypatch.setattr(shard_module.ShardScorer, step, stops)
    with pytest.raises(OSError, match="no space"):
        job(cascade, source, output, shard_rows=90)
    assert not (output / "_SUCCESS").exists()
    done = job(cascade, source, output, shard_rows=90)
    assert began == [0, 1, 2, 3, 3, 4, 5, 6]
    assert done.scored_now == (7 if step == "_crm" else 4)
    assert job(cascade, source, output, shard_rows=90).scored_now == 0
    same(read(output), expected)
    assert not (output / "_work").exists()


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory")])
def test_memory_that_runs_out_is_one_line(cascade, source, tmp_path, monkeypatch, error):
    def fails(self, shard):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(shard_module.ShardScorer, "_read", fails)
        with pytest.raises(WorkerError, match="no memory is left for a shard: run the same"):
            job(cascade, source, tmp_path / "out", shard_rows=700)
        error.args = ("a bug",)
        if isinstance(error, RuntimeError):
            with pytest.raises(RuntimeError, match="a bug"):
                job(cascade, source, tmp_path / "out", shard_rows=700)


def stopped(cascade, source, output, monkeypatch):
    """A job that has scored 3 of 7 shards."""
    whole = shard_module.ShardScorer._llm

    def stops(self, shard, table):
        if shard == 3:
            raise OSError("stopped")
        return whole(self, shard, table)

    with monkeypatch.context() as patch:
        patch.setattr(shard_module.ShardScorer, "_llm", stops)
        with pytest.raises(OSError, match="stopped"):
            job(cascade, source, output, shard_rows=90)
    return LocalFolder(output)


def test_what_is_damaged_is_scored_again(cascade, source, expected, tmp_path, monkeypatch):
    output = tmp_path / "out"
    stopped(cascade, source, output, monkeypatch)
    cut_off = output / output_of(1)
    cut_off.write_bytes(cut_off.read_bytes()[:-9])
    shutil.copy(output / output_of(0), output / output_of(2))
    (output / crm_file(5, "logits")).write_bytes(b"")
    (output / crm_file(6, "json")).unlink()
    assert job(cascade, source, output, shard_rows=90).scored_now == 6
    same(read(output), expected)


def test_a_changed_shard_is_refused(cascade, source, tmp_path, monkeypatch):
    folder = stopped(cascade, source, tmp_path / "out", monkeypatch)
    frozen = frozen_input(folder)
    shutil.copy(folder.place(frozen.file(0)), folder.place(frozen.file(4)))
    with pytest.raises(ArtifactError, match=r"000004.parquet is not as it was written: delete"):
        job(cascade, source, tmp_path / "out", shard_rows=90)


def test_counts_that_differ_are_no_success(cascade, source, tmp_path, monkeypatch):
    stopped(cascade, source, tmp_path / "out", monkeypatch)
    done, output = (tmp_path / "out" / name for name in (done_of(0), output_of(0)))
    facts = json.loads(done.read_text())
    done.write_text(json.dumps(facts | {"rows": 1}))
    with pytest.raises(ArtifactError, match=r"says 1, the input has \d+: delete both files"):
        job(cascade, source, tmp_path / "out", shard_rows=90)
    assert not (tmp_path / "out" / SUCCESS).exists()
    done.unlink()
    output.unlink()
    assert job(cascade, source, tmp_path / "out", shard_rows=90).scored_now == 1


def test_another_job_in_the_same_directory_is_refused(
    finished, cascade, source, tmp_path, monkeypatch
):
    output = tmp_path / "out"
    stopped(cascade, source, output, monkeypatch)
    with pytest.raises(DataError, match="90 rows"):
        job(cascade, source, output)
    with pytest.raises(DataError, match="the cascade is another one: name another output"):
        job(finished[0], source, output, shard_rows=90)
    other = write_input(tmp_path / "other", all_pairs(1))
    with pytest.raises(DataError, match="the input has changed or is another one"):
        job(cascade, other, output, shard_rows=90)
    with locked(output / ".lock", "x"), pytest.raises(LockedError, match="in use by"):
        job(cascade, source, output, shard_rows=90)


@pytest.fixture
def failing(tiny_llm, finished):
    """A server that answers one request of 32 rows, then refuses, and then is well again."""
    model, _ = load_model(str(tiny_llm), torch.float32, torch.device("cpu"))
    with VllmServer(load_adapter(model, finished[0] / "cascade" / "adapter")) as server:
        server.faults["/v1/completions"].extend([None] + [(400, "no", {})] * 8)
        yield server


def test_a_job_goes_on_when_its_server_is_well_again(cascade, source, expected, tmp_path, failing):
    load = loader(cascade, server=failing.url, server_model=ADAPTER)
    with pytest.raises(RemoteError, match="400 no"):
        job(cascade, source, tmp_path / "out", load)
    failing.faults.clear()
    assert job(cascade, source, tmp_path / "out", load).unanswered == 0
    found = read(tmp_path / "out")
    assert found["source"].equals(expected["source"])
    assert found["p_llm"].to_numpy() == pytest.approx(
        expected["p_llm"].to_numpy(), abs=1e-3, nan_ok=True
    )


def test_a_failing_server_may_leave_rows_to_the_crm(cascade, source, tmp_path, failing):
    load = loader(cascade, server=failing.url, server_model=ADAPTER, on_server_error="crm")
    done = job(cascade, source, tmp_path / "out", load)
    assert 0 < done.unanswered < ROUTED
    assert done.routed == ROUTED - done.unanswered
    assert (read(tmp_path / "out")["source"] != "crm").sum() == done.routed


# What cannot be scored.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop("item"), r"0.parquet: no column 'item'"),
        (lambda t: t.with_columns(p=pl.lit(1.0)), "rename the column 'p'"),
        (lambda t: t.with_columns(pl.lit(1).alias("corellarec.user")), "rename the column 'corell"),
        (lambda t: t.with_columns(item=pl.lit("no such")), r"0.parquet, row 1: item 'no such' is"),
        (lambda t: t.with_columns(user=pl.lit(None, pl.String)), r"0.parquet, row 1: no user"),
        (lambda t: t.with_columns(time=pl.lit("never")), r"row 1: time 'never' cannot be read"),
        (lambda t: t.clear(), "no rows in the input"),
    ],
)
def test_an_input_that_cannot_be_used_is_named(cascade, tmp_path, change, message):
    source = write_input(tmp_path / "in", change(all_pairs()), 1)
    with pytest.raises(DataError, match=message):
        job(cascade, source, tmp_path / "out")
    with pytest.raises(DataError, match=message):
        estimate(loader(cascade)(), input_files(source), 100, 1, None, ask=False)
    source = write_input(tmp_path / "in", all_pairs()[:20], 1)
    assert job(cascade, source, tmp_path / "out").rows == 20  # put right, the command goes on


def test_the_row_of_a_later_batch_is_named(cascade, tmp_path):
    pairs = pl.concat([all_pairs()] * 200)
    pairs = pairs.with_columns(item=pl.when(pl.int_range(pl.len()) == 110_000).then(pl.lit("x"))
                               .otherwise("item"))  # fmt: skip
    with pytest.raises(DataError, match="row 110001: item 'x' is not known"):
        job(cascade, write_input(tmp_path / "in", pairs, 1), tmp_path / "out")


def test_files_must_have_the_same_columns(cascade, tmp_path):
    source = write_input(tmp_path / "in", all_pairs())
    numbers = pl.read_parquet(tmp_path / "in" / "2.parquet").with_columns(number=pl.lit("x"))
    numbers.write_parquet(tmp_path / "in" / "2.parquet")
    with pytest.raises(DataError, match=r"2.parquet has other columns than .*number: String and"):
        job(cascade, source, tmp_path / "out")


def test_which_files_are_the_input(tmp_path):
    pairs = all_pairs()
    for name in ("a/1", "a/b/2", "a/_x/3", ".h/4", "a/_5", "c/6"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pairs.write_parquet(tmp_path / f"{name}.parquet")

    def names(source):
        return [Path(file.path).stem for file in input_files(str(source))]

    assert names(tmp_path) == ["1", "2", "6"]
    assert names(tmp_path / "a" / "1.parquet") == ["1"]
    assert names(tmp_path / "*" / "*.parquet") == ["1", "6"]
    assert names(tmp_path / "a" / "**" / "*.parquet") == ["1", "3", "2"]
    with pytest.raises(DataError, match="no Parquet file there"):
        names(tmp_path / "none")


def test_the_input_is_never_overwritten(cascade, tmp_path):
    source = write_input(tmp_path / "in", all_pairs())
    before = sorted(path.name for path in (tmp_path / "in").iterdir())
    for output in (tmp_path / "in", tmp_path):
        with pytest.raises(DataError, match="holds the input"):
            job(cascade, source, output)
    with pytest.raises(DataError, match="is a file"):
        job(cascade, source, tmp_path / "in" / "0.parquet")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    with pytest.raises(DataError, match=r"is not empty \(mine.txt\) and holds no job"):
        job(cascade, source, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == before


# The command.


def test_the_command(monkeypatch, capsys, cascade, source, expected, tmp_path):
    out = tmp_path / "out"
    command = ("score", cascade, source, out, "--device", "cpu", "--shard-rows", 250)
    status, printed, _ = call(monkeypatch, capsys, *command, "--dry-run", "--json")
    assert status == 0
    planned = json.loads(printed)
    assert planned["rows"] == ROWS
    assert planned["shards"] == 3
    assert planned["llm_rows"] == ROUTED
    assert planned["llm_tokens"] > ROUTED
    assert planned["crm_seconds"] > 0 < planned["llm_seconds"]
    status, _, err = call(monkeypatch, capsys, *command, "--dry-run")
    assert f"about {ROUTED} rows (10.00%), at most about {planned['llm_tokens']:,} tokens" in err
    assert not out.exists()
    status, _, err = call(monkeypatch, capsys, *command)
    assert status == 0
    assert "630 rows scored into 3 files" in err
    assert "the LLM answered 63; 30 rows have a user that the log does not know" in err
    same(read(out), expected)
    assert "price" not in err
    status, printed, _ = call(monkeypatch, capsys, *command, "--json")
    assert json.loads(printed)["scored_now"] == 0
    status, _, err = call(monkeypatch, capsys, "score", cascade, tmp_path / "no", out)
    assert status == 2
    assert len(err.splitlines()) == 1


def test_the_price_is_said_before_and_after(monkeypatch, capsys, cascade, source, tmp_path):
    command = ["score", cascade, source, tmp_path / "out", "--device", "cpu"]
    command += ["--price-per-hour", 3_600_000]
    _, printed, _ = call(monkeypatch, capsys, *command, "--dry-run", "--json")
    planned = json.loads(printed)
    assert planned["price"] == pytest.approx(planned["hours"] * 3_600_000)
    status, _, err = call(monkeypatch, capsys, *command)
    assert status == 0, err
    first, *_, last = err.splitlines()
    assert first == "630 rows in 1 shards"
    assert re.fullmatch(r"\d+ s, [\d,]+ tokens, price [\d,.]+; expected: .* price [\d,.]+", last)
    done = json.loads(call(monkeypatch, capsys, *command, "--json")[1])
    assert done["expected"]["rows"] == ROWS
    assert done["price"] == pytest.approx(done["seconds"] * 1000)
    assert done["calls"] == 1


def test_a_dry_run_asks_no_server(cascade, source, tmp_path):
    far = loader(cascade, server="http://127.0.0.1:9", server_model=ADAPTER)()
    found = estimate(far, input_files(source), 700, 2, None, ask=False)
    assert found.llm_seconds is None
    assert found.llm_tokens > ROUTED
    assert "the server is not asked" in found.lines()[2]


def test_ray_that_is_not_installed_is_named(cascade, source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'corellarec\[ray\]'"):
        job(cascade, source, tmp_path / "out", engine="ray")
