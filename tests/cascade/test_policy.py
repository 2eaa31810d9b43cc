from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import expit
from worlds import busy, fit, known, world

from corellarec.base.metrics import log_loss, losses
from corellarec.cascade.policy import expected_gain
from corellarec.cascade.policy import known as look_up


def test_gain_learns_where_the_llm_knows_more():
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
        assert router.rules.keys() == {"gain", "entropy"}
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


def test_known_sums_over_the_log_once(log, monkeypatch):
    counts = log.liked_before
    assert counts.tolist() == [log.history_label[:row].sum().item() for row in range(len(log) + 1)]
    samples = log.samples(torch.arange(20))
    first = look_up(log, samples, np.zeros(20), 10)
    monkeypatch.setattr(log, "history_label", None)
    again = look_up(log, samples, np.zeros(20), 10)
    assert np.array_equal(first.liked_share, again.liked_share)


def test_a_gain_is_not_followed_outside_what_validation_had():
    data = busy(6)
    router = fit(data, data["llm"])
    facts = known(data)[:2]
    far = replace(facts, crm_logit=np.array([1e6, -1e6]), item_count=np.array([1e12, 1e12]))
    edge = replace(facts, crm_logit=np.array([20.0, -20.0]), item_count=np.array([1e4, 1e4]))
    assert router.value(far, "gain") == pytest.approx(router.value(edge, "gain"))
