import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from worlds import busy, fit, known, world

from corellarec.cascade.policy import POLICIES
from corellarec.cascade.threshold import blocks, budget_needed, threshold_of


@pytest.mark.parametrize("policy", POLICIES)
def test_the_budget_holds_on_later_rows_of_another_kind(policy):
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
        return data | {"time": age}

    now, later = month(1, 0.0), month(2, 0.2)
    router = fit(now, now["llm"], budget=0.2, policy=policy)
    routed = router.above(known(later), policy).mean()
    overall = np.quantile(router.value(known(now), policy), 0.8)
    assert (router.value(known(later), policy) > overall).mean() > 0.22
    assert 0.05 < routed < 0.21


def test_the_budget_holds_whatever_the_mix_of_new_and_known_users():
    data = busy(9, 8000)
    data["returning"] = np.random.default_rng(0).random(8000) < 0.2
    data["crm"] *= np.where(data["returning"], 0.3, 1.0)
    routed = fit(data, data["llm"], budget=0.2).above(known(data), "entropy")
    assert 0.15 < routed[data["returning"]].mean() <= 0.2
    assert routed.mean() < 0.15


@settings(max_examples=100, deadline=None)
@given(
    value=st.lists(st.integers(-3, 3) | st.floats(-5, 5), min_size=5, max_size=60),
    budget=st.floats(0, 1) | st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)
def test_a_threshold_and_the_budget_needed_agree(value, budget):
    value = np.array(value, dtype=np.float64)
    past = blocks(value, np.arange(len(value)), value > 0)
    routed = value > threshold_of(budget, past)
    slack = 1e-6  # a rank that equals the budget may fall on either side
    assert (budget_needed(value[routed], past) <= budget + slack).all()
    assert (budget_needed(value[~routed], past) > budget - slack).all()
    for block in past:
        assert (block > threshold_of(budget, past)).mean() <= budget + slack
