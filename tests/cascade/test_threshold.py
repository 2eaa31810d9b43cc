import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from worlds import fit, known, world

from corellarec.cascade.policy import POLICIES
from corellarec.cascade.threshold import budget_needed, threshold_of


@pytest.mark.parametrize("policy", POLICIES)
def test_the_budget_is_a_limit_on_later_rows_of_another_kind(policy):
    """Histories grow with time, and so does the rows above a threshold."""

    def month(seed, grown):
        generator = np.random.default_rng(seed)
        data = world(seed, 8000)
        age = (np.sort(generator.random(8000)) + grown) / 2
        history = np.floor(50 * np.clip(age + generator.normal(size=8000) / 8, 0, 1))
        data["facts"] = np.stack([history, np.zeros(8000), np.full(8000, 0.5)])
        data["crm"] *= 1.5 - age
        truth = data["crm"] + data["llm"] * np.log1p(history) / 4
        data["label"] = (generator.random(8000) < expit(truth)).astype(np.int8)
        return data

    now, later = month(1, 0.0), month(2, 0.2)
    router = fit(now, now["llm"], budget=0.2, policy=policy)
    assert router.above(known(now), policy).mean() == pytest.approx(0.2, abs=0.001)
    value, routed = router.value(known(later), policy), router.routed(known(later), policy)
    assert router.above(known(later), policy).mean() > 0.22
    assert routed.sum() == 1600
    assert value[routed].min() >= value[~routed].max()


@settings(max_examples=100, deadline=None)
@given(
    past=st.lists(st.integers(-3, 3) | st.floats(-5, 5), min_size=1, max_size=60),
    budget=st.floats(0, 1) | st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)
def test_a_threshold_and_the_budget_needed_agree(past, budget):
    past = np.array(past, dtype=np.float64)
    threshold = threshold_of(budget, past)
    routed = past > threshold
    slack = 1e-6  # a rank that equals the budget may fall on either side
    assert (budget_needed(past[routed], past) <= budget + slack).all()
    assert (budget_needed(past[~routed], past) > budget - slack).all()
    assert routed.mean() <= budget + slack
