import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import binomtest

from corellarec.base.calibrate import fit_logistic
from corellarec.base.errors import ArtifactError, DataError
from corellarec.base.metrics import log_loss, losses
from corellarec.cascade.blend import fit_full, fit_plain
from corellarec.cascade.fit import Judged, Population, fit_router
from corellarec.cascade.policy import POLICIES, Known, expected_gain
from corellarec.cascade.policy import known as look_up
from corellarec.cascade.router import Router, explain
from corellarec.cascade.threshold import blocks, budget_needed, threshold_of


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


def fit(data, llm, budget=None, combine="blend", policy="entropy", threshold=None):
    time = data.get("time", np.arange(len(llm)))
    returning = data.get("returning", np.zeros(len(llm), dtype=bool))
    budget = 0.2 if budget is None and threshold is None else budget
    return fit_router(
        Judged(known(data), llm, data["label"], data["user"], time, returning),
        Population(known(data), data["label"], time, returning),
        policy=policy,
        budget=budget,
        threshold=threshold,
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


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("combine", ["blend", "replace"])
def test_a_helpful_language_model_is_asked(combine, policy):
    data, unseen = world(1), world(2)
    router = fit(data, data["llm"], combine=combine, policy=policy)
    assert router.rule.verdict.helps
    assert router.rule.verdict.bound > 0
    routed = router.routed(known(unseen))
    assert 0.15 < routed.mean() <= 0.2
    alone = expit(router.crm(unseen["crm"]))
    together = np.where(routed, router.answer(known(unseen), unseen["llm"]), alone)
    assert log_loss(unseen["label"], together) < log_loss(unseen["label"], alone)


USELESS = {
    "noise": lambda of, noise: noise,
    "inverted": lambda of, noise: -of["llm"],
    "inverted CRM": lambda of, noise: -of["crm"],
    "inverted truth": lambda of, noise: noise + 2.0 - 4.0 * of["label"],
    "constant": lambda of, noise: np.full(len(noise), 2.0),
    "copy": lambda of, noise: of["crm"],
    "huge": lambda of, noise: np.where(noise > 0, 1e300, -1e300),
    "huge constant": lambda of, noise: np.full(len(noise), -1e300),
}


@example(3161, "constant", "blend", "gain", 0.3, 0.0)
@settings(max_examples=40, deadline=None, derandomize=True)  # chance itself is under test
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(sorted(USELESS)),
    combine=st.sampled_from(["blend", "replace"]),
    policy=st.sampled_from(POLICIES),
    budget=st.sampled_from([0.05, 0.3, 1.0, "best"]),
    skew=st.sampled_from([0.0, 1.5]),
)
def test_a_useless_language_model_does_no_harm(seed, kind, combine, policy, budget, skew):
    """With a skew the CRM is wrong about short histories, which the blend could put right alone."""

    def shop(seed):
        generator = np.random.default_rng(seed)
        data = world(seed)
        rows = len(data["crm"])
        data["facts"] = generator.integers(0, 50, (3, rows)) / np.array([[1], [1], [50]])
        short = data["facts"][0] < 10
        truth = data["crm"] * (1 - skew * short / 2) + skew * short + data["llm"]
        data["label"] = (generator.random(rows) < expit(truth)).astype(np.int8)
        return data, USELESS[kind](data, generator.normal(size=rows))

    (data, llm), (unseen, unseen_llm) = shop(seed), shop(seed + 20_000)
    router = fit(data, llm, budget=budget, combine=combine, policy=policy)
    routed = router.routed(known(unseen))
    alone = expit(router.crm(unseen["crm"]))
    together = np.where(routed, router.answer(known(unseen), unseen_llm), alone)
    assert log_loss(unseen["label"], together) < log_loss(unseen["label"], alone) + 2e-3
    if kind not in ("noise", "huge"):  # these pass a 95 % test once in twenty times
        assert not routed.any()


def test_no_budget_routes_nothing():
    data = world(3)
    router = fit(data, data["llm"], budget=0.0)
    assert not router.rule.verdict.helps
    assert not router.routed(known(data)).any()


def test_whole_budget_routes_everything():
    data = world(3)
    assert fit(data, data["llm"], budget=1.0).routed(known(data)).all()


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
        routed = router.routed(known(unseen), policy)
        alone = expit(router.crm(unseen["crm"]))
        together = np.where(routed, router.answer(known(unseen), unseen_llm), alone)
        found[policy] = log_loss(unseen["label"], together)
        assert router.to_json()["rules"].keys() == {"gain", "entropy"}
        if policy == "gain":
            assert popular[routed].mean() > 0.95
            assert router.rule.verdict.helps
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


def test_gain_routes_no_row_that_it_expects_to_lose_on():
    data = world(6)
    noise = np.random.default_rng(0).normal(size=3000) * 3
    router = fit(data, noise, budget=1.0, combine="replace", policy="gain")
    assert router.routed(known(data), "gain").mean() < 0.5
    assert not router.routed(known(data)).any()


def test_known_looks_back_no_further_than_told(log):
    row = int(log.user_begin[3]) + 9
    found = look_up(log, log.samples(torch.tensor([row])), np.zeros(1), 4)
    assert found.history_length.tolist() == [4]
    liked = log.history_label[row - 4 : row].sum().item()
    assert found.liked_share.tolist() == [(liked + 0.5) / 5]
    train = log.rows_of("train")
    assert found.item_count.tolist() == [(log.item[train] == log.item[row]).sum().item()]


def busy(seed, rows=3000):
    """The language model knows the more, the longer the history; the CRM is wrong about some."""
    data = world(seed, rows)
    generator = np.random.default_rng(seed + 1)
    history, count = generator.integers(0, 51, rows) * 1.0, generator.integers(0, 500, rows) * 1.0
    data["facts"] = np.stack([history, count, generator.random(rows)])
    truth = data["crm"] + data["llm"] * np.log1p(history) / 4 + 0.3 * (history < 5)
    data["label"] = (generator.random(rows) < expit(truth)).astype(np.int8)
    return data


def test_the_full_blend_is_taken_where_it_is_better_and_rises_with_both_logits():
    data, unseen = busy(3, 6000), busy(4, 6000)
    router = fit(data, data["llm"])
    full, plain = (way(data["label"], known(data), data["llm"]) for way in (fit_full, fit_plain))
    assert router.blend == full
    loss = {b: log_loss(unseen["label"], expit(b(known(unseen), unseen["llm"])))
            for b in (full, plain)}  # fmt: skip
    assert loss[full] < loss[plain]
    more = replace(known(unseen), crm_logit=unseen["crm"] + 0.5)
    before = full(known(unseen), unseen["llm"])
    assert (full(more, unseen["llm"]) >= before).all()
    assert (full(known(unseen), unseen["llm"] + 0.5) >= before).all()
    inverted = fit_full(data["label"], known(data), -data["llm"])
    assert inverted.weights[1] == inverted.weights[3] == 0
    flat = world(5)
    assert fit(flat, flat["llm"]).blend.weights[4:] == (0.0, 0.0)


def test_an_answer_needs_no_other_rows():
    data = busy(5)
    router = fit(data, data["llm"], policy="gain")
    facts, llm = known(data), data["llm"]
    routed, answer = router.routed(facts), router.answer(facts, llm)
    assert 0 < routed.sum() < len(routed)
    for i in range(0, 60, 3):
        one = slice(i, i + 1)
        assert router.routed(facts[one])[0] == routed[i]
        assert router.answer(facts[one], llm[one])[0] == pytest.approx(answer[i])


def test_a_gain_is_not_followed_outside_what_validation_had():
    data = busy(6)
    router = fit(data, data["llm"])
    facts = known(data)[:2]
    far = replace(facts, crm_logit=np.array([1e6, -1e6]), item_count=np.array([1e12, 1e12]))
    edge = replace(facts, crm_logit=np.array([20.0, -20.0]), item_count=np.array([1e4, 1e4]))
    assert router.value(far, "gain") == pytest.approx(router.value(edge, "gain"))


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


@pytest.mark.parametrize("policy", POLICIES)
def test_a_set_budget_is_kept_whatever_comes(policy):
    data, other = busy(9), busy(10)
    other["crm"] = other["crm"] / 10  # unsure of all
    router = fit(data, data["llm"], budget=0.2, policy=policy)
    above = router.above(known(other), policy)
    assert above.mean() > 0.25
    routed = router.routed(known(other), policy)
    assert routed.sum() == 600
    value = router.value(known(other), policy)
    assert value[routed].min() >= value[above & ~routed].max()


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


def test_best_routes_where_validation_gains():
    data = world(1)
    helpful = fit(data, data["llm"], budget="best")
    assert helpful.budget > 0.9
    assert helpful.rule.verdict.helps
    inverted = fit(data, -data["llm"], budget="best")
    assert inverted.budget == 0
    assert not inverted.routed(known(data), "entropy").any()
    assert "sends no rows to the LLM" in explain(inverted)


@pytest.mark.parametrize(("policy", "threshold"), [("entropy", 0.6), ("gain", 0)])
def test_a_threshold_takes_the_place_of_a_budget(policy, threshold):
    data = busy(7)
    router = fit(data, data["llm"], policy=policy, threshold=threshold)
    routed = router.routed(known(data))
    assert np.array_equal(routed, router.value(known(data), policy) > threshold)
    assert router.budget == routed.mean()
    assert router.rules[policy].share.routed / 3000 == pytest.approx(router.budget, abs=0.05)


@pytest.mark.parametrize(("rows", "found"), [(7, "all 7 .* have label 1"), (0, "no validation")])
def test_labels_of_one_class_are_refused_in_one_line(rows, found):
    data = world(3)
    few = {name: column[data["label"] == 1][:rows] for name, column in data.items()}
    remedy = "needs both labels, 0 and 1: use more validation rows .cascade.validation_rows"
    settings = {"policy": "gain", "combine": "blend", "seed": 0}

    def both(data):
        time, returning = np.arange(len(data["llm"])), np.zeros(len(data["llm"]), dtype=bool)
        facts = known(data), data["label"], time, returning
        return (
            Judged(facts[0], data["llm"], data["label"], data["user"], time, returning),
            Population(*facts),
        )

    for judged, population in ((both(few)[0], both(data)[1]), (both(data)[0], both(few)[1])):
        with pytest.raises(DataError, match=f"router cannot be fitted: {found}.*{remedy}"):
            fit_router(judged, population, **settings)
    with pytest.raises(DataError, match="calibration needs labels of both kinds.*use more rows"):
        fit_logistic(few["label"], few["crm"])


def test_the_fewest_rows_that_can_be_fitted_route_none():
    data = {name: column[:2] for name, column in world(3).items()}
    data["label"] = np.array([0, 1], dtype=np.int8)
    router = fit(data, data["llm"], budget=1.0)
    assert "fewer than 30 cannot show a gain" in explain(router)
    assert not router.routed(known(data)).any()


def test_the_default_budget_is_a_tenth():
    data = busy(7)
    rows = known(data), data["label"], np.arange(3000), np.zeros(3000, dtype=bool)
    judged = Judged(rows[0], data["llm"], data["label"], data["user"], *rows[2:])
    settings = {"policy": "entropy", "combine": "blend", "seed": 0}
    router = fit_router(judged, Population(*rows), **settings)
    assert (router.budget, router.hard, router.limit) == (0.1, True, 0.1)
    assert router == fit_router(judged, Population(*rows), budget=0.1, **settings)
    by_threshold = fit_router(judged, Population(*rows), threshold=0.6, **settings)
    assert (by_threshold.hard, by_threshold.limit) == (False, 1.0)
    with pytest.raises(ValueError, match=r"a budget \(0.2\) or a threshold \(0.6\), not both"):
        fit_router(judged, Population(*rows), budget=0.2, threshold=0.6, **settings)


def test_the_share_routed_has_an_exact_bound():
    data = world(8)
    router = fit(data, data["llm"], policy="entropy")
    share = router.rules["entropy"].share
    test = binomtest(share.routed, share.rows, alternative="less")
    found = test.proportion_ci(confidence_level=0.95, method="exact").high
    assert share.bound == pytest.approx(found)
    assert share.routed == router.rule.verdict.routed
    assert f"less than {share.bound:.1%}" in explain(router)
    assert fit(data, data["llm"], budget=1.0).rule.share.bound == 1.0


def test_json_round_trip():
    data = busy(4)
    router = fit(data, data["llm"])
    assert Router.from_json(json.loads(json.dumps(router.to_json()))) == router


def test_a_router_of_another_version_is_refused():
    data = world(4)
    router = fit(data, data["llm"])
    without, within, more = (router.to_json() for _ in range(3))
    del without["rules"]
    del within["rules"]["gain"]["share"]["bound"]
    more["limit"] = 1.0
    for facts, name in ((without, "rules"), (within, "RoutedShare.*bound"), (more, "limit")):
        with pytest.raises(ArtifactError, match=f"another version .*{name}.*evaluate RUN"):
            Router.from_json(facts)
