"""Two processes compute what one does, and go on where another number of them stopped."""

import json
import subprocess
import sys

import polars as pl
import pytest
import torch
from typer.testing import CliRunner

from command_line import options
from corellarec.base.errors import ConfigError
from corellarec.cli import entry, main
from corellarec.run.records import read_run_config
from corellarec.run.scores import llm_logits
from corellarec.run.weights import BLEND, load_tuned_adapter
from corellarec.run.workspace import Workspace
from corellarec.train.checkpoint import load_tensors
from run import ranks

EXACT = [
    "crm.id_dropout=0",
    "crm.dropout=0",
    "crm.dtype=float32",
    "evaluate.bootstrap=10",
    "evaluate.test_rows=60",
    "stage1.learning_rate=5e-4",
    "stage1.epochs=1",
    "llm.template=movies-liked",
    "stage2.rows=80",
    "stage2.epochs=2",
    "stage2.evaluations=2",
    "stage2.learning_rate=1e-2",
    "stage2.tokens_per_batch=700",
    "stage3.rows=120",
    "stage3.learning_rate=1e-2",
    "stage3.tokens_per_batch=300",
    "stage3.accumulate=3",
    "distill.rows=80",
    "distill.weights=[0.5]",
]
STREAM_DROPOUTS = ("dropout", "user_dropout", "ridge_dropout")
MEMBERS = 'crm.members=[{crm={model="lr", id_dropout=0, dtype="float32"}, stage1={epochs=1}}]'


@pytest.fixture(scope="module")
def folders(tiny_settings, tmp_path_factory):
    """What one process made, and two."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    run = [*tiny_settings, *EXACT]
    stream = [*run, "crm.model=stream", *(f"crm.stream.{name}=0" for name in STREAM_DROPOUTS)]
    # A batch is one sequence, so that one of two processes computes for the other's sake alone.
    sharded = [*run, "llm.shard=true", "llm.checkpointing=true", "llm.tokens_per_batch=300",
               "stage2.rows=40", "stage2.tokens_per_batch=64", "stage3.rows=0",
               "distill.rows=0"]  # fmt: skip
    jobs = [
        ["toy", "plain"],
        ["toy", "accumulated", 4],
        ["whole_run", "run", [*run, MEMBERS]],
        ["first_stage", "stream", stream],
        ["sharded_run", "sharded", sharded],
    ]
    for name, *arguments in jobs:
        getattr(ranks, name)(one, *arguments)
    ranks.toy(two, "one-then-two", die_after=4)
    more = [["toy", "two-then-one", 1, 4], ["toy", "one-then-two"]]
    ranks.in_two_processes(two, [*jobs, *more])
    ranks.toy(two, "two-then-one")
    return one, two


def read(folder, name, rank=0):
    return json.loads((folder / f"{name}.{rank}.json").read_text())


def assert_same(found, expected):
    """Equal but for rounding."""
    assert found["step"] == expected["step"]
    assert found["best"] == pytest.approx(expected["best"], abs=1e-5)
    for one, other in zip(found["history"], expected["history"], strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    for name, values in expected["weights"].items():
        torch.testing.assert_close(
            torch.tensor(found["weights"][name]), torch.tensor(values), atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("name", ["plain", "accumulated"])
def test_losses_and_weights_are_those_of_one_process(folders, name):
    one, two = folders
    expected = read(one, name)
    assert len(expected["history"]) > 4
    assert_same(read(two, name), expected)
    assert read(two, name, 1)["weights"] == read(two, name)["weights"]


@pytest.mark.parametrize("name", ["one-then-two", "two-then-one"])
def test_another_number_of_processes_goes_on(folders, name):
    one, two = folders
    assert_same(read(two, name), read(one, "plain"))


@pytest.mark.parametrize(
    ("run", "part"),
    [("run", "stage1"), ("run", "stage2"), ("run", "stage3"), ("run", "distilled"),
     ("run", "member1"), ("stream", "stage1"), ("sharded", "stage2")],
)  # fmt: skip
def test_stages_of_a_run_are_those_of_one_process(folders, run, part):
    expected, found = (load_tensors(folder / run / part, "model") for folder in folders)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=0)
    if part != "distilled":
        facts = [
            json.loads((folder / run / part / "manifest.json").read_text()) for folder in folders
        ]
        assert facts[1]["step"] == facts[0]["step"] > 1
        assert facts[1]["best_step"] == facts[0]["best_step"]
        if part != "stage3":  # what is compared has been trained
            assert min(facts[0]["best_step"].values()) > 0
        for one, other in zip(facts[1]["history"], facts[0]["history"], strict=True):
            assert one == pytest.approx(other, abs=1e-5)


def test_the_blend_of_networks_is_that_of_one_process(folders):
    one, two = (json.loads((f / "run" / "members" / BLEND).read_text()) for f in folders)
    for name in ("weights", "alone", "without"):
        assert two[name] == pytest.approx(one[name], rel=1e-4)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_shared_scores_are_those_of_one_process(folders, split):
    expected, found = (
        pl.read_parquet(folder / "run" / "scores" / split / "scores.parquet") for folder in folders
    )
    assert found["row"].to_list() == expected["row"].to_list()
    assert found["llm_logit"].to_list() == pytest.approx(expected["llm_logit"].to_list(), abs=1e-4)


def test_a_sharded_model_is_half_in_each_process_and_whole_in_one(folders):
    one, two = folders
    whole = read(one, "sharded")
    assert read(two, "sharded") + read(two, "sharded", 1) == whole
    assert read(two, "sharded") == pytest.approx(whole / 2, rel=0.01)
    run = Workspace(read_run_config(two / "sharded"), two / "sharded", ranks.QUIET)
    load_tuned_adapter(run)
    rows, expected = llm_logits(run, "validation")
    assert run.scorer.logits(run.log.samples(rows)).tolist() == pytest.approx(expected, abs=1e-5)


def test_metrics_are_those_of_one_process_in_both(folders):
    one, two = folders
    assert read(two, "run") == pytest.approx(read(one, "run"), abs=1e-4)
    assert read(two, "run", 1) == read(two, "run")
    costs = [json.loads((f / "run" / "scores" / "test" / "manifest.json").read_text())["cost"]
             for f in folders]  # fmt: skip
    assert costs[0]["tokens"] == costs[1]["tokens"]


LONE = """
import os
from corellarec.base.errors import DataError
from corellarec.cli.entry import main
from corellarec.train import loop

validate = loop._validate

def fails(task, state, *more):
    if os.environ["RANK"] == "1" and state.step:
        raise DataError("no room for it")
    return validate(task, state, *more)

loop._validate = fails
main()
"""


@pytest.mark.hard
@pytest.mark.parametrize("alone", [True, False])
def test_an_error_is_one_line_of_all_processes(tiny_settings, tmp_path, alone):
    (tmp_path / "lone.py").write_text(LONE)
    program = [tmp_path / "lone.py"] if alone else ["-m", "corellarec"]
    settings = tiny_settings if alone else [*tiny_settings, "data.path=/nowhere"]
    run = ["run", "--out", tmp_path / "run", *options(settings)]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *program, *run],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    own = done.stderr.partition("Sending process")[0]  # what follows is torchrun's own report
    assert done.returncode == 1
    assert own.count("error: ") == 1
    assert ("no room for it" if alone else "/nowhere is not there") in own
    assert "Traceback" not in own


@pytest.mark.hard  # they share the loop and the scorers of a run
@pytest.mark.parametrize("name", ["tallrec", "ctrl", "p5"])
def test_baselines_are_those_of_one_process(tiny_settings, tmp_path, name):
    settings = [*tiny_settings, *EXACT]
    ranks.in_two_processes(tmp_path / "two", [["baseline", name, settings, "60"]])
    ranks.baseline(tmp_path / "one", name, settings, "60")
    two, one = (
        json.loads((tmp_path / folder / name / "baseline.json").read_text())
        for folder in ("two", "one")
    )
    assert two["test"]["auc"]["value"] == pytest.approx(one["test"]["auc"]["value"], abs=1e-4)
    assert two["validation_log_loss"] == pytest.approx(one["validation_log_loss"], abs=1e-5)


@pytest.mark.parametrize(
    ("rank", "error", "waited"),
    [
        ("0", ConfigError("no"), 0.0),
        ("1", ConfigError("no"), 5.0),
        ("0", RuntimeError("peer"), 5.0),
    ],
)
def test_the_first_process_speaks_first(monkeypatch, capsys, rank, error, waited):
    waits = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(entry.time, "sleep", waits.append)
    monkeypatch.setattr(main, "app", raising(error))
    monkeypatch.setattr(entry, "stop_on_signals", lambda: [])
    with pytest.raises(RuntimeError if isinstance(error, RuntimeError) else SystemExit):
        entry.main()
    assert waits == [waited]


@pytest.mark.parametrize("command", ["tune", "study quick"])
def test_searches_and_studies_are_not_shared_by_processes(monkeypatch, command):
    monkeypatch.setenv("WORLD_SIZE", "2")
    found = CliRunner().invoke(main.app, command.split())
    assert isinstance(found.exception, ConfigError)
    assert "start without torchrun; --engine ray --workers N" in str(found.exception)


def raising(error):
    def app():
        raise error

    return app
