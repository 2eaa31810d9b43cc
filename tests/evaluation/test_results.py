import json
import math

import polars as pl
import pytest

from corellarec.base.errors import ArtifactError
from corellarec.evaluation.evaluate import evaluate_scores
from corellarec.evaluation.results import Evaluation


@pytest.fixture(scope="module")
def result(make_scores, make_router):
    return evaluate_scores(make_scores(), make_router(), bootstrap=20, groups=3, seed=0)


@pytest.fixture(scope="module")
def of_one_user(make_scores, make_router):
    return evaluate_scores(make_scores(users=1), make_router(), bootstrap=20, groups=3, seed=0)


def test_json_and_back(result):
    assert Evaluation.from_json(result.to_json()) == result


def test_what_cannot_be_estimated_is_null_in_json_and_nan_again(of_one_user):
    text = of_one_user.to_json()
    assert "NaN" not in text
    assert json.loads(text)["table"][0]["metrics"]["auc"]["low"] is None
    again = Evaluation.from_json(text)
    assert math.isnan(again.table[0].metrics["auc"].low)
    assert again.to_json() == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '{"test": {"table": {}}}',
            "metrics.json was written by another version: `corellarec",
        ),
        ('{"name": "a", ', "metrics.json is damaged: `corellarec evaluate RUN` writes it again"),
    ],
)
def test_other_text_is_refused_in_one_line(text, said):
    with pytest.raises(ArtifactError, match=said) as error:
        Evaluation.from_json(text, "metrics.json")
    assert "\n" not in str(error.value)


def test_the_frame_has_a_row_for_each_predictor(result, of_one_user):
    frame = result.to_frame()
    assert frame["predictor"].to_list() == [row.key for row in result.table]
    cascade = frame.row(by_predicate=pl.col("predictor") == "cascade", named=True)
    row = result.row("cascade")
    assert cascade["llm_share"] == row.llm_share
    for metric in ("auc", "log_loss", "accuracy", "uauc", "calibration_error"):
        figure, over = row.metrics[metric], row.over_reference[metric]
        assert cascade[metric] == figure.value
        assert (cascade[f"{metric}_low"], cascade[f"{metric}_high"]) == (figure.low, figure.high)
        assert cascade[f"{metric}_over_reference"] == over.value
    assert of_one_user.to_frame()["auc_low"].is_null().all()


def test_the_suffix_decides_what_is_saved(result, tmp_path):
    result.save(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    result.save(str(tmp_path / "metrics.json"))
    assert Evaluation.from_json((tmp_path / "metrics.json").read_text()) == result


def test_no_such_row(result):
    with pytest.raises(KeyError, match="no predictor 'shipped'; there are: crm, "):
        result.row("shipped")
