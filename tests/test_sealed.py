"""Nothing is fitted or chosen on labels of the test split."""

import json

import pytest
from rich.console import Console

from corellarec.base.artifacts import sha256
from corellarec.config import load_config
from corellarec.evaluation.run import evaluate_run
from corellarec.run.scores import score
from corellarec.run.steps import run_steps
from corellarec.run.workspace import STAGES, Workspace

TEACH = ["distill.rows=200", "distill.weights=[0.5]"]


def fitted(config, directory):
    """A run up to its fitted cascade, and what came of it."""
    run = Workspace(config, directory, Console(quiet=True))
    run_steps(run)
    score(run, "test", 0)
    steps = [*(f"stage{n}" for n in STAGES), "distilled"]
    weights = [sha256(directory / step / "model.safetensors") for step in steps]
    router = json.loads((directory / "cascade" / "cascade.json").read_text())["router"]
    return run, weights, router


def turned_round(source, target):
    """The same log with every rating of its latest tenth on the other side."""
    target.mkdir()
    for name in ("u.item", "u.user"):
        (target / name).write_bytes((source / name).read_bytes())
    rows = [line.split("\t") for line in (source / "u.data").read_text().splitlines()]
    latest = sorted(range(len(rows)), key=lambda i: int(rows[i][3]))[-len(rows) // 10 :]
    for i in latest:
        rows[i][2] = "1" if int(rows[i][2]) >= 4 else "5"
    (target / "u.data").write_text("\n".join("\t".join(row) for row in rows) + "\n")
    return target


@pytest.fixture(scope="module")
def before(tiny_settings, tmp_path_factory):
    return fitted(
        load_config(settings=[*tiny_settings, *TEACH]), tmp_path_factory.mktemp("before") / "run"
    )


def test_the_door_opens_for_the_evaluation_alone(before):
    run, _, _ = before
    assert run.log.opened == []
    evaluate_run(run)
    assert run.log.opened == ["evaluate"]


def test_other_test_labels_change_nothing_that_is_fitted(
    before, movielens, tiny_settings, tmp_path
):
    run, weights, router = before
    other = turned_round(movielens, tmp_path / "ml-100k")
    config = load_config(settings=[*tiny_settings, *TEACH, f"data.path={other}"])
    turned, weights_after, router_after = fitted(config, tmp_path / "run")
    rows = run.log.rows_of("test")
    assert (run.log.test_labels(rows, "test") != turned.log.test_labels(rows, "test")).all()
    assert weights_after == weights
    assert router_after == router
