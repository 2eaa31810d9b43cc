import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from corellarec.cascade.fit import Population, fit_router
from corellarec.cascade.policy import Known
from corellarec.cascade.scores import Scores
from corellarec.evaluation.evaluate import evaluate_scores
from corellarec.evaluation.parts import Costs, Figure


@pytest.fixture(scope="module")
def found():
    generator = np.random.default_rng(0)
    crm, llm = generator.normal(size=(2, 2400)) * 1.2
    label = (generator.random(2400) < expit(crm + llm)).astype(np.int8)
    user = generator.integers(0, 60, 2400)
    known = Known(crm, *generator.random((3, 2400)))
    half, rest = slice(0, 1200), slice(1200, None)

    def part(rows):
        return Scores(user[rows], label[rows], known[rows], llm[rows])

    fitted, scores = part(half), part(rest)
    router = fit_router(
        fitted,
        Population(fitted.known, fitted.label),
        policy="entropy",
        budget=0.3,
        combine="blend",
        seed=0,
    )
    return scores, router, evaluate_scores(scores, router, bootstrap=50, groups=3, seed=0)


def test_table_agrees_with_scikit_learn(found):
    scores, router, result = found

    def auc(key):
        return result.row(key).metrics["auc"].value

    assert auc("crm") == auc("crm_calibrated") == roc_auc_score(scores.label, scores.crm_logit)
    assert auc("llm") == roc_auc_score(scores.label, scores.llm_logit)
    blend = router.blend(scores.known, scores.llm_logit)
    assert auc("blend_all") == roc_auc_score(scores.label, blend)
    for row in result.table:
        figure = row.metrics["auc"]
        assert figure.low <= figure.value <= figure.high
    assert result.reference == "crm_calibrated"
    over = result.row(result.reference).over_reference["auc"]
    assert over == Figure(0, 0, 0, 0, 0)


def test_the_deployed_cascade_is_the_routers(found):
    scores, router, result = found
    assert router.rule.verdict.helps
    cascade = result.row("cascade")
    assert cascade.metrics == result.row("blend_entropy").metrics
    assert cascade.llm_share == router.routed(scores.known).mean()
    assert cascade.over_reference["log_loss"].high < 0


def test_groups_cover_the_rows_least_confident_first(found):
    groups = found[2].segments[0].groups
    assert sum(group.rows for group in groups) == 1200
    losses = [group.predictors["CRM"].metrics["log_loss"].value for group in groups]
    assert losses == sorted(losses, reverse=True)
    assert groups[0].predictors["LLM"].over_reference["auc"].value > 0


def test_curve_starts_at_the_crm_and_ends_at_the_blend(found):
    result = found[2]
    for curve in result.curves.policies.values():
        for metric, line in (("auc", curve.auc), ("log_loss", curve.log_loss)):
            assert line[0] == pytest.approx(result.row("crm_calibrated").metrics[metric].value)
            assert line[-1] == pytest.approx(result.row("blend_all").metrics[metric].value)
    half = len(result.curves.budget) // 2
    policies = result.curves.policies
    assert policies["oracle"].log_loss[half] < policies["entropy"].log_loss[half]
    assert result.curves.configured == 0.3


def test_reliability_bins_hold_all_rows(found):
    for bins in found[2].reliability.values():
        assert sum(one.rows for one in bins) == 1200
        assert [one.p for one in bins] == sorted(one.p for one in bins)


def test_costs_follow_the_share_that_is_routed(make_scores, make_router):
    costs = Costs(crm_ms=0.5, llm_ms=20, llm_tokens=30, layout_tokens={})
    result = evaluate_scores(
        make_scores(), make_router(), bootstrap=2, groups=3, seed=0, costs=costs
    )
    assert (result.row("crm").ms, result.row("crm").tokens) == (500, 0)
    assert (result.row("llm").ms, result.row("llm").tokens) == (20_000, 30_000)
    assert result.row("replace").ms == pytest.approx(500 + 0.1 * 20_000)


def test_a_small_group_has_counts_and_no_figures(make_scores, make_router):
    scores = make_scores()
    few = np.arange(len(scores.label)) < 100
    result = evaluate_scores(scores, make_router(), bootstrap=20, groups=3, seed=0,
                      ways={"rows": {"few": few, "others": ~few}})  # fmt: skip
    groups = {group.name: group for group in result.segments[1].groups}
    assert (groups["few"].rows, groups["few"].predictors) == (100, {})
    assert list(groups["others"].predictors) == ["CRM", "LLM", "cascade"]


def test_of_one_user_there_is_no_interval(make_scores, make_router):
    """A resample of one user is that user: the interval had no width and claimed certainty."""
    result = evaluate_scores(make_scores(users=1), make_router(), bootstrap=20, groups=3, seed=0)
    for row in result.table:
        for figure in (*row.metrics.values(), *row.over_reference.values()):
            assert math.isnan(figure.low)
            assert math.isnan(figure.high)
            assert math.isfinite(figure.value)


def test_uauc_needs_two_users_with_both_labels(make_scores, make_router):
    scores = make_scores(users=3)
    label = np.where(scores.user == 0, scores.label, scores.user == 1).astype(np.int8)
    result = evaluate_scores(
        replace(scores, label=label), make_router(), bootstrap=20, groups=3, seed=0
    )
    row = result.row("crm")
    assert math.isnan(row.metrics["uauc"].low)
    assert row.metrics["auc"].low < row.metrics["auc"].high
