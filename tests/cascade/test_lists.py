"""Whose list is re-ranked: worlds in which the expert knows something, or nothing."""

import numpy as np
import pytest

from corellarec.cascade.lists import (
    FEATURES,
    ListBlend,
    ListScores,
    fit_blend,
    fit_lists,
    list_facts,
)

PLACES = 30


def world(lists=400, *, base=1.0, expert=1.0, knows=None, seed=0):
    """Lists whose relevant items follow from both scores; ``knows`` masks where the expert does."""
    generator = np.random.default_rng(seed)
    first, second = generator.normal(size=(2, lists, PLACES))
    order = np.argsort(-first, axis=1)
    first, second = (np.take_along_axis(one, order, 1) for one in (first, second))
    history = generator.integers(0, 100, lists)
    known = history > 50
    weight = expert if knows is None else expert * known[:, None] * knows
    chance = base * first + weight * second
    likeliest = np.argsort(-(chance + generator.gumbel(size=chance.shape)), axis=1)[:, :4]
    hit = np.zeros((lists, PLACES), dtype=bool)
    np.put_along_axis(hit, likeliest, True, 1)
    facts = list_facts(first, history, known, np.ones((lists, PLACES)))
    return ListScores(first, second, hit, np.full(lists, 5), facts)


def test_the_blend_finds_the_weights_of_the_world():
    found = fit_blend(world(3000, base=1.0, expert=0.5))
    # Four items drawn without replacement are each a little less certain than a first one.
    assert found.expert_weight / found.base_weight == pytest.approx(0.5, rel=0.1)
    assert found.base_weight == pytest.approx(1.0, rel=0.2)


def test_weights_are_never_negative():
    wrong = fit_blend(world(500, base=1.0, expert=-1.0))
    assert wrong.expert_weight == 0
    assert wrong.base_weight > 0
    assert fit_blend(world(500, base=-1.0, expert=1.0)).base_weight == 0
    nothing = fit_blend(world(500, base=-1.0, expert=-1.0))
    assert (nothing.base_weight, nothing.expert_weight) == (1.0, 0.0)


def test_lists_without_a_hit_leave_the_order_as_it_is():
    lists = world(50)
    none = ListScores(lists.base, lists.expert, lists.hit & False, lists.relevant, lists.facts)
    assert fit_blend(none) == ListBlend(1.0, 0.0)


def test_a_users_level_has_no_part_in_the_blend():
    lists = world(300)
    moved = ListScores(
        lists.base + np.arange(300)[:, None] % 7,
        lists.expert - np.arange(300)[:, None] % 5,
        lists.hit,
        lists.relevant,
        lists.facts,
    )
    one, other = fit_blend(lists), fit_blend(moved)
    assert other.base_weight == pytest.approx(one.base_weight, rel=1e-2)
    assert other.expert_weight == pytest.approx(one.expert_weight, rel=1e-2)


def test_an_ended_list_stays_ended():
    lists = world(20)
    base = lists.base.copy()
    base[:, 20:] = -np.inf
    short = ListScores(base, np.where(np.isfinite(base), lists.expert, -np.inf),
                       lists.hit & np.isfinite(base), lists.relevant, lists.facts)  # fmt: skip
    blended = ListBlend(1.0, 2.0)(short.base, short.expert)
    assert (np.isfinite(blended) == np.isfinite(base)).all()
    np.testing.assert_allclose(blended[:, :20], lists.base[:, :20] + 2 * lists.expert[:, :20])
    assert np.isfinite(fit_blend(short).expert_weight)


def test_facts_of_an_ended_list_are_finite_and_count_what_is_there():
    base = np.array([[2.0, 1.0, -np.inf], [1.0, 1.0, 1.0]])
    facts = list_facts(base, np.array([0, 9]), np.array([False, True]), np.ones((2, 3)))
    found = dict(zip(FEATURES, facts.T, strict=True))
    share = np.exp([0.0, -1.0]) / np.exp([0.0, -1.0]).sum()
    assert found["entropy of the first scores"][0] == pytest.approx(-(share * np.log(share)).sum())
    assert found["entropy of the first scores"][1] == pytest.approx(np.log(3))
    assert found["lead of the first"].tolist() == [1.0, 0.0]
    assert found["log history length"].tolist() == [0.0, np.log(10)]
    assert found["user known in training"].tolist() == [0.0, 1.0]
    assert np.isfinite(facts).all()


def test_an_expert_who_knows_gains_on_other_lists_too():
    router = fit_lists(world(400), (0.1, 1.0), 10, 0)
    new = world(400, seed=1)
    for budget in (0.1, 1.0):
        assert router.verdicts[budget].helps
        asked = router.chosen(new.facts, budget)
        assert asked.mean() <= budget
        gain = new.ndcg(router.blend(new.base, new.expert), 10) - new.ndcg(new.base, 10)
        assert gain[asked].mean() > 0.02
    assert router.chosen(new.facts, 1.0).all()


def test_an_expert_who_knows_nothing_is_not_asked():
    helped = [
        fit_lists(world(200, expert=0.0, seed=seed), (0.1, 1.0), 10, seed).verdicts
        for seed in range(20)
    ]
    assert sum(verdicts[1.0].helps for verdicts in helped) <= 2
    assert sum(verdicts[0.1].helps for verdicts in helped) <= 2


def test_the_policy_finds_the_lists_that_gain():
    lists = world(1500, expert=2.0, knows=1)
    router = fit_lists(lists, (0.3, 1.0), 10, 0)
    new = world(1500, expert=2.0, knows=1, seed=1)
    asked = router.chosen(new.facts, 0.3)
    known = new.facts[:, FEATURES.index("user known in training")] == 1
    assert known[asked].mean() > 0.95
    assert router.verdicts[0.3].gain > 1.5 * router.verdicts[1.0].gain


def test_few_lists_cannot_show_a_gain():
    verdict = fit_lists(world(40), (0.1,), 10, 0).verdicts[0.1]
    assert not verdict.helps
    assert verdict.routed < 20


def test_a_list_of_no_expected_gain_is_not_asked_about():
    router = fit_lists(world(300, expert=-1.0), (0.5,), 10, 0)
    assert not router.chosen(world(300, expert=-1.0, seed=1).facts, 0.5).any()
