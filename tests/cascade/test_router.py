import json

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.special import expit

from corellarec.cascade.calibrate import fit_logistic
from corellarec.cascade.policy import Known, expected_gain
from corellarec.cascade.policy import known as look_up
from corellarec.cascade.router import Router, fit_router
from corellarec.metrics import log_loss, losses


def world(seed, rows=3000):
    """Truth is the sum of what each model knows; users repeat."""
    generator = np.random.default_rng(seed)
    crm, llm = generator.normal(size=(2, rows)) * 1.2
    label = (generator.random(rows) < expit(crm + llm)).astype(np.int8)
    return {"crm": crm, "llm": llm, "label": label, "user": generator.integers(0, 150, rows)}


def known(data):
    rows = len(data["crm"])
    facts = data.get("facts", np.zeros((3, rows)))
    return Known(data["crm"], *facts)


def fit(data, llm, budget=0.2, combine="blend", policy="entropy"):
    return fit_router(
        known=known(data),
        llm_logit=llm,
        label=data["label"],
        user=data["user"],
        all_known=known(data),
        all_label=data["label"],
        policy=policy,
        budget=budget,
        combine=combine,
        seed=0,
    )


def test_platt_scaling_undoes_a_linear_map():
    generator = np.random.default_rng(0)
    logit = generator.normal(size=20_000) * 2
    label = (generator.random(20_000) < expit(logit)).astype(np.int8)
    found = fit_logistic(label, 3 * logit + 1)
    assert found.weights[0] == pytest.approx(1 / 3, rel=0.05)
    assert found.bias == pytest.approx(-1 / 3, abs=0.05)


def test_a_weight_is_never_negative():
    data = world(0)
    found = fit_logistic(data["label"], data["crm"], -data["llm"])
    assert found.weights[1] == 0
    assert found.weights[0] > 0
    nothing = fit_logistic(data["label"], -data["crm"])
    assert nothing.weights == (0.0,)
    assert expit(nothing.bias) == pytest.approx(data["label"].mean())


@pytest.mark.parametrize("policy", ["entropy", "gain"])
@pytest.mark.parametrize("combine", ["blend", "replace"])
def test_a_helpful_language_model_is_asked(combine, policy):
    data, unseen = world(1), world(2)
    router = fit(data, data["llm"], combine=combine, policy=policy)
    assert router.verdict.helps
    assert router.verdict.bound > 0
    asked = router.asks(known(unseen))
    assert asked.mean() == pytest.approx(0.2, abs=0.03)
    alone = expit(router.crm(unseen["crm"]))
    together = np.where(asked, router.answer(unseen["crm"], unseen["llm"]), alone)
    assert log_loss(unseen["label"], together) < log_loss(unseen["label"], alone)


@example(3161, "constant", "blend", "gain", 0.3)
@settings(max_examples=40, deadline=None, derandomize=True)  # chance itself is under test
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(["noise", "inverted", "constant", "copy"]),
    combine=st.sampled_from(["blend", "replace"]),
    policy=st.sampled_from(["entropy", "gain"]),
    budget=st.sampled_from([0.05, 0.3, 1.0]),
)
def test_a_useless_language_model_does_no_harm(seed, kind, combine, policy, budget):
    data, unseen = world(seed), world(seed + 20_000)

    def answer(of, stream):
        noise = np.random.default_rng(stream).normal(size=len(of["label"]))
        return {
            "noise": noise,
            "inverted": -of["llm"],
            "constant": np.full(len(noise), 2.0),
            "copy": of["crm"],
        }[kind]

    router = fit(data, answer(data, 1), budget=budget, combine=combine, policy=policy)
    asked = router.asks(known(unseen))
    alone = expit(router.crm(unseen["crm"]))
    together = np.where(asked, router.answer(unseen["crm"], answer(unseen, 2)), alone)
    assert log_loss(unseen["label"], together) < log_loss(unseen["label"], alone) + 2e-3
    if kind != "noise" and combine == "blend":  # the rest passes a 95 % test once in twenty times
        assert not asked.any()


def test_no_budget_routes_nothing():
    data = world(3)
    router = fit(data, data["llm"], budget=0.0)
    assert not router.verdict.helps
    assert not router.asks(known(data)).any()


def test_whole_budget_routes_everything():
    data = world(3)
    assert fit(data, data["llm"], budget=1.0).asks(known(data)).all()


def test_gain_learns_where_the_language_model_knows_more():
    """The language model knows popular items only; entropy cannot tell."""

    def shop(seed):
        data = world(seed, rows=6000)
        popular = np.random.default_rng(seed + 1).random(6000) < 0.3
        noise = np.random.default_rng(seed + 2).normal(size=6000) * 1.2
        data["facts"] = np.stack([np.zeros(6000), np.where(popular, 500.0, 2.0), np.zeros(6000)])
        return data, np.where(popular, data["llm"], noise), popular

    data, llm, _ = shop(5)
    unseen, unseen_llm, popular = shop(50)
    found = {}
    for policy in ("gain", "entropy"):
        router = fit(data, llm, policy=policy)
        asked = router.would_ask(known(unseen), policy)
        alone = expit(router.crm(unseen["crm"]))
        together = np.where(asked, router.answer(unseen["crm"], unseen_llm), alone)
        found[policy] = log_loss(unseen["label"], together)
        assert router.to_json()["thresholds"].keys() == {"gain", "entropy"}
        if policy == "gain":
            assert popular[asked].mean() > 0.95
            assert router.verdict.helps
    assert found["gain"] < found["entropy"] - 0.005


def test_expected_gain_is_the_mean_saving_with_less_noise():
    data = world(9, rows=20_000)
    truth = expit(data["crm"] + data["llm"])
    alone, answer = expit(data["crm"]), expit(data["llm"])
    saved = losses(data["label"], alone) - losses(data["label"], answer)
    expected = expected_gain(alone, answer, truth)
    assert expected.mean() == pytest.approx(saved.mean(), abs=0.01)
    assert expected.std() < 0.8 * saved.std()
    assert np.isfinite(expected_gain(np.array([0.0]), np.array([1.0]), np.array([1.0]))).all()


def test_gain_asks_nobody_it_expects_to_lose():
    data = world(6)
    noise = np.random.default_rng(0).normal(size=3000) * 3
    router = fit(data, noise, budget=1.0, combine="replace", policy="gain")
    assert router.would_ask(known(data), "gain").mean() < 0.5
    assert not router.asks(known(data)).any()


def test_known_looks_back_no_further_than_told(log):
    row = int(log.user_begin[3]) + 9
    found = look_up(log, log.samples(torch.tensor([row])), np.zeros(1), 4)
    assert found.history_length.tolist() == [4]
    liked = log.label[row - 4 : row].sum().item()
    assert found.liked_share.tolist() == [(liked + 0.5) / 5]
    train = log.rows_of("train")
    assert found.item_count.tolist() == [(log.item[train] == log.item[row]).sum().item()]


def test_json_round_trip():
    data = world(4)
    router = fit(data, data["llm"])
    assert Router.from_json(json.loads(json.dumps(router.to_json()))) == router
