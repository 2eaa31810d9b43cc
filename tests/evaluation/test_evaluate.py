import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from corellarec.cascade.fit import Judged, Population, fit_router
from corellarec.cascade.policy import Known
from corellarec.evaluation.evaluate import Scores, evaluate


@pytest.fixture(scope="module")
def found():
    generator = np.random.default_rng(0)
    crm, llm = generator.normal(size=(2, 2400)) * 1.2
    label = (generator.random(2400) < expit(crm + llm)).astype(np.int8)
    user, time = generator.integers(0, 60, 2400), np.arange(2400)
    known = Known(crm, *generator.random((3, 2400)))
    half = slice(0, 1200)
    router = fit_router(
        Judged(known[half], llm[half], label[half], user[half], time[half], time[half] % 2 == 0),
        Population(known[half], label[half], time[half], time[half] % 2 == 0),
        policy="entropy",
        budget=0.3,
        threshold=None,
        combine="blend",
        seed=0,
    )
    rest = slice(1200, None)
    scores = Scores(user[rest], label[rest], known[rest], llm[rest])
    return scores, router, evaluate(scores, router, bootstrap=50, groups=3, seed=0)


def test_table_agrees_with_scikit_learn(found):
    scores, router, result = found
    table = result["table"]
    assert table["crm"]["auc"]["value"] == roc_auc_score(scores.label, scores.crm_logit)
    assert table["llm"]["auc"]["value"] == roc_auc_score(scores.label, scores.llm_logit)
    blend = router.blend(scores.known, scores.llm_logit)
    assert table["blend_all"]["auc"]["value"] == roc_auc_score(scores.label, blend)
    assert table["crm"]["auc"]["value"] == table["crm_calibrated"]["auc"]["value"]
    for row in table.values():
        assert row["auc"]["low"] <= row["auc"]["value"] <= row["auc"]["high"]
    assert table["crm_calibrated"]["auc_over_crm"] == {"value": 0, "low": 0, "high": 0}


def test_the_shipped_cascade_is_the_routers(found):
    scores, router, result = found
    assert router.rule.verdict.helps
    assert result["table"]["cascade"] == result["table"]["blend_entropy"]
    asked = router.routed(scores.known).mean()
    assert result["table"]["cascade"]["asked_share"] == asked
    assert result["table"]["cascade"]["log_loss_over_crm"]["high"] < 0


def test_groups_cover_the_rows_least_confident_first(found):
    _, _, result = found
    assert sum(group["rows"] for group in result["groups"]) == 1200
    losses = [group["crm_calibrated"]["log_loss"] for group in result["groups"]]
    assert losses == sorted(losses, reverse=True)
    assert result["groups"][0]["llm_over_crm"]["auc"]["value"] > 0


def test_curve_starts_at_the_crm_and_ends_at_the_blend(found):
    _, _, result = found
    curve, table = result["curve"], result["table"]
    for name in ("entropy", "gain", "random", "oracle"):
        for metric in ("auc", "log_loss"):
            assert curve[name][metric][0] == table["crm_calibrated"][metric]["value"]
            assert curve[name][metric][-1] == table["blend_all"][metric]["value"]
    half = len(curve["budget"]) // 2
    assert curve["oracle"]["log_loss"][half] < curve["entropy"]["log_loss"][half]


def test_reliability_bins_hold_all_rows(found):
    for bins in found[2]["reliability"].values():
        assert sum(b["rows"] for b in bins) == 1200
        assert [b["p"] for b in bins] == sorted(b["p"] for b in bins)
