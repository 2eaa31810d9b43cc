"""The published figures and intervals: the same scores give the same numbers."""

import json
from pathlib import Path

import pytest

from corellarec.evaluation.answers import PREDICTORS
from corellarec.evaluation.evaluate import evaluate_scores

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())
METRICS = ("auc", "log_loss", "accuracy", "calibration_error")


@pytest.fixture(scope="module")
def result(make_scores, make_router):
    return evaluate_scores(make_scores(), make_router(), bootstrap=200, groups=3, seed=7)


def exactly(figure):
    """As stored; the last bits of a sum may differ between machines."""
    return pytest.approx([figure["value"], figure["low"], figure["high"]], abs=1e-12, rel=0)


@pytest.mark.parametrize("key", PREDICTORS)
def test_the_table_is_as_it_was(key, result):
    row, golden = result.row(key), GOLDEN["predictors"][key]
    assert row.llm_share == golden["llm_share"]
    for metric in METRICS:
        figure, over = row.metrics[metric], row.over_reference[metric]
        assert [figure.value, figure.low, figure.high] == exactly(golden[metric]), metric
        assert [over.value, over.low, over.high] == exactly(golden["over_crm"][metric]), metric


def test_the_groups_are_as_they_were(result):
    groups = result.segments[0].groups
    assert [group.rows for group in groups] == [group["rows"] for group in GOLDEN["groups"]]
    for group, golden in zip(groups, GOLDEN["groups"], strict=True):
        for metric in ("auc", "log_loss"):
            for name in ("crm", "llm"):
                value = group.predictors[name.upper()].metrics[metric].value
                assert value == pytest.approx(golden[name][metric], abs=1e-12)
            over = group.predictors["LLM"].over_reference[metric]
            assert [over.value, over.low, over.high] == exactly(golden["llm_over_crm"][metric])


def test_the_curves_and_the_reliability_are_as_they_were(result):
    for policy, golden in GOLDEN["curve"].items():
        curve = result.curves.policies[policy]
        assert list(curve.auc) == pytest.approx(golden["auc"], abs=1e-12)
        assert list(curve.log_loss) == pytest.approx(golden["log_loss"], abs=1e-12)
    for key, golden in GOLDEN["reliability"].items():
        bins = [(one.p, one.rate, one.rows) for one in result.reliability[key]]
        assert bins == [(one["p"], one["rate"], one["rows"]) for one in golden]
