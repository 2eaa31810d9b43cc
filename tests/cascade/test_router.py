import json
from dataclasses import replace

import numpy as np
import pytest
from worlds import busy, fit, known, world

from corellarec.base.artifacts import read_json, write_json
from corellarec.base.errors import ArtifactError
from corellarec.cascade.policy import POLICIES
from corellarec.cascade.router import Router


def test_no_budget_routes_nothing():
    data = world(3)
    router = fit(data, data["llm"], budget=0.0)
    assert not router.rule.verdict.helps
    assert not router.routed(known(data)).any()


def test_whole_budget_routes_everything():
    data = world(3)
    assert fit(data, data["llm"], budget=1.0).routed(known(data)).all()


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


@pytest.mark.parametrize("policy", POLICIES)
def test_a_row_is_valued_alike_to_the_last_bit_in_every_batch(policy):
    data = busy(5)
    facts = known(data)
    router = fit(data, data["llm"], policy=policy)
    value = router.value(facts)
    for size in (1, 2, 3, 7, 64, 1001):
        starts = range(0, 3000 if size > 1 else 300, size)
        parts = [router.value(facts[start : start + size]) for start in starts]
        assert np.array_equal(np.concatenate(parts), value[: sum(map(len, parts))])
    for row in range(300):  # a threshold that equals the row's own value is not exceeded
        rule = replace(router.rule, threshold=float(value[row]))
        at_row = replace(router, rules={policy: rule})
        one = facts[row : row + 1]
        assert not at_row.above(one)[0]
        assert not at_row.above(facts)[row]


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


def test_a_router_is_read_back_equal(tmp_path):
    data = busy(4)
    router = fit(data, data["llm"])
    write_json(tmp_path / "router.json", router)
    assert read_json(tmp_path / "router.json", Router) == router
    facts = json.loads((tmp_path / "router.json").read_text())
    del facts["rules"]["gain"]["share"]["bound"]
    (tmp_path / "router.json").write_text(json.dumps(facts))
    with pytest.raises(ArtifactError, match=r"another version .*rules\.gain\.share\.bound"):
        read_json(tmp_path / "router.json", Router)
