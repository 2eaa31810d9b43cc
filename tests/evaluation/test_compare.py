"""Runs on the same test rows, side by side."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import corellarec as cr
from command_line import call
from corellarec.evaluation import compare as module
from corellarec.evaluation.compare import compare


def resumed(monkeypatch, capsys, run, settings, *changes):
    """The run with other settings, from its stored scores."""
    given = [part for one in [*settings, *changes] for part in ("--set", one)]
    code, out, err = call(monkeypatch, capsys, "run", "--resume", "--out", run, "--json", *given)
    assert code == 0, err
    return json.loads(out)


@pytest.fixture
def runs(finished, tiny_settings, monkeypatch, capsys, tmp_path):
    """The tiny run, and the same with another policy on fewer test rows."""
    other = tmp_path / "other"
    shutil.copytree(finished[0], other)
    figures = resumed(monkeypatch, capsys, other, tiny_settings, "cascade.policy=entropy",
                      "cascade.combine=replace", "evaluate.test_rows=120")  # fmt: skip
    return finished[0], other, finished[1], figures


def test_each_run_has_its_own_figures_on_the_common_rows(runs):
    first, other, whole, part = runs
    found = cr.compare([other, first], bootstrap=20)
    assert found.runs == ("other", "tiny")
    assert found.rows == part["rows"]
    assert found.left_out == whole["rows"] - part["rows"]
    assert found.positives == part["positives"]
    own = {row["key"]: row for row in part["table"]}
    for key in ("crm_calibrated", "cascade"):
        row = next(one for one in found.table if one.key == f"other/{key}")
        for metric in ("auc", "log_loss"):
            assert row.metrics[metric].value == pytest.approx(own[key]["metrics"][metric]["value"])
        assert row.llm_share == pytest.approx(own[key]["llm_share"])
    frame = found.to_frame()
    assert frame["predictor"].to_list()[2:] == ["tiny/crm_calibrated", "tiny/cascade"]
    gaps = frame["log_loss"] - frame["log_loss"][1]
    np.testing.assert_allclose(frame["log_loss_over_reference"], gaps, atol=1e-12)
    assert frame["log_loss_over_reference"][1] == 0
    assert frame["auc"][0] == pytest.approx(frame["auc"][2])


def test_a_run_equals_itself(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "again")
    found = compare([finished[0], tmp_path / "again"], bootstrap=20)
    assert found.left_out == 0
    assert found.rows == finished[1]["rows"]
    for row in (found.table[1], found.table[3]):
        assert {(g.value, g.low, g.high) for g in row.over_reference.values()} == {(0, 0, 0)}


def test_runs_that_share_a_name_are_told_apart():
    paths = [Path("/a/x/run"), Path("/a/y/run"), Path("/b/x/other")]
    assert module._names(paths) == ["x/run", "y/run", "x/other"]
    assert module._names(paths[1:]) == ["run", "other"]


def test_what_cannot_be_compared_is_told_in_one_line(finished, monkeypatch, capsys, tmp_path):
    run = finished[0]
    unfinished = tmp_path / "unfinished"
    shutil.copytree(run, unfinished)
    (unfinished / "metrics.json").unlink()
    for runs, message in (
        ([run], "two runs or more"),
        ([run, run], "each once"),
        ([run, tmp_path], "is no run"),
        ([run, unfinished], f"corellarec run --resume --out {unfinished}"),
    ):
        code, _, err = call(monkeypatch, capsys, "compare", *runs)
        assert code == 2
        assert message in err
        assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pl.lit("stranger").alias("user"), "no test row in common"),
        ((1 - pl.col("label")).alias("label"), "different labels"),
    ],
)
def test_rows_that_are_not_the_same_are_told(finished, tmp_path, monkeypatch, change, message):
    shutil.copytree(finished[0], tmp_path / "again")
    scored = module._scored

    def other(run, name):
        answers, frame = scored(run, name)
        return answers, frame.with_columns(change) if name == "again" else frame

    monkeypatch.setattr(module, "_scored", other)
    with pytest.raises(cr.DataError, match=message):
        compare([finished[0], tmp_path / "again"], bootstrap=20)


def test_the_command_prints_a_table_that_fits(runs, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = call(monkeypatch, capsys, "compare", runs[0], runs[1])
    assert code == 0, err
    assert "differences from tiny: cascade" in out
    assert "more that only some did" in " ".join(out.split())
    assert "…" not in out
    code, out, _ = call(monkeypatch, capsys, "compare", runs[0], runs[1], "--json")
    assert [row["key"] for row in json.loads(out)["table"]][1] == "tiny/cascade"
