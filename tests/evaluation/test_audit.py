"""The audit of two columns of scores."""

import json

import numpy as np
import polars as pl
import pytest

import corellarec as cr
from command_line import call


def table(rows=6000, users=200, expert=1.0, seed=0):
    """The label depends on what each model sees; the expert's weight may be none."""
    generator = np.random.default_rng(seed)
    seen, hidden = generator.normal(size=(2, rows))
    label = generator.random(rows) < 1 / (1 + np.exp(-(seen + expert * hidden)))
    return pl.DataFrame(
        {
            "y": label.astype(int),
            "cheap": 1 / (1 + np.exp(-seen)),
            "dear": 40 + 10 * (seen + hidden),
            "who": generator.integers(0, users, rows),
            "when": np.arange(rows) + 1_600_000_000,
        }
    )


COLUMNS = {"label": "y", "crm": "cheap", "expert": "dear", "user": "who", "time": "when"}


def test_an_expert_that_knows_more_pays():
    found = cr.audit(table(), **COLUMNS, budget=0.3)
    assert found.pays
    assert found.verdict.startswith("dear pays: with ")
    cascade = found.evaluation.row("cascade")
    assert 0 < cascade.llm_share <= 0.3 + 1e-9
    assert cascade.over_reference["log_loss"].high < 0
    assert found.evaluation.rows == 3000
    frame = found.to_frame()
    assert frame.filter(pl.col("predictor") == "blend_all")["auc"].item() > (
        frame.filter(pl.col("predictor") == "crm_calibrated")["auc"].item() + 0.05
    )


def test_an_expert_that_knows_nothing_more_does_not():
    found = cr.audit(table(expert=0.0), **COLUMNS, budget=0.3)
    assert not found.pays
    assert "does not pay" in found.verdict or "not shown" in found.verdict


def test_users_and_times_are_not_needed():
    found = cr.audit(table().drop("who", "when"), label="y", crm="cheap", expert="dear",
                     budget=0.5)  # fmt: skip
    assert found.pays


def test_the_halves_share_no_user_where_there_are_no_times():
    found = cr.audit(table(), label="y", crm="cheap", expert="dear", user="who", budget=0.5)
    assert found.evaluation.users == 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": [2] * 6000}, "label 2 is not 1 or 0"),
        ({"y": [1] * 6000}, "every label of the earlier half is 1"),
        ({"dear": ["x"] * 6000}, "row 1: expert 'x' is not a number; 6000 such"),
        ({"when": ["soon"] * 6000}, "time 'soon' cannot be read"),
    ],
)
def test_bad_columns_are_one_line(change, message):
    bad = table().with_columns(**{name: pl.Series(values) for name, values in change.items()})
    with pytest.raises(cr.DataError, match=message):
        cr.audit(bad, **COLUMNS)


def test_a_sample_takes_users_whole():
    found = cr.audit(table(), **COLUMNS, budget=0.3, rows=3000)
    assert found.evaluation.users <= 100
    assert found.evaluation.rows == pytest.approx(1500, abs=150)


def test_few_rows_and_missing_columns():
    with pytest.raises(cr.DataError, match="100 rows; an audit needs 200"):
        cr.audit(table(100), **COLUMNS)
    with pytest.raises(cr.DataError, match="no column 'nothing'"):
        cr.audit(table(), **{**COLUMNS, "crm": "nothing"})


def test_from_the_command_line(monkeypatch, capsys, tmp_path):
    path, report = tmp_path / "scores.parquet", tmp_path / "report.html"
    table().write_parquet(path)
    given = [part for role, name in COLUMNS.items() for part in (f"--{role}", name)]
    code, out, err = call(monkeypatch, capsys, "audit", path, *given, "--budget", 0.3,
                          "-o", report)  # fmt: skip
    assert code == 0, err
    assert "dear pays" in out
    assert "<svg" in report.read_text("utf-8")
    code, out, err = call(monkeypatch, capsys, "audit", path, *given, "--budget", 0.3, "--json")
    assert json.loads(out)["pays"] is True
    code, _, err = call(monkeypatch, capsys, "audit", tmp_path / "none.csv")
    assert code == 2
    assert "none.csv is not there" in err
