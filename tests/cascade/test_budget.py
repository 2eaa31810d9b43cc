import math
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corellarec.cascade import budget as budget_module
from corellarec.cascade.budget import KEPT_ROWS, BudgetMeter, first_credit, most_valuable

budgets = st.floats(0, 1) | st.sampled_from([0.0, 0.1, 0.2, 1.0])
calls = st.lists(
    st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=12), min_size=1, max_size=60
)


def spend(meter, above, value=None, row="row", error=None):
    """What one call routes; with an error it raises that after its rows are chosen."""
    above = np.asarray(above, dtype=bool)
    value = np.zeros(len(above)) if value is None else np.asarray(value, dtype=float)
    with meter.reserve(above, value, row) as routed:
        if error:
            raise error
        return routed


@settings(max_examples=200, deadline=None)
@given(budgets, calls, st.integers(0, 99))
def test_no_prefix_of_calls_exceeds_the_budget(budget, calls, seed):
    meter, rows, routed = BudgetMeter(budget, seed), [0], [0]
    most_kept = max(1, KEPT_ROWS * budget)
    for call in calls:
        above, value = np.array([a for a, _ in call], bool), np.array([v for _, v in call], float)
        mask = spend(meter, above, value)
        assert not (mask & ~above).any()
        if (above & ~mask).any() and mask.any():
            assert value[mask].min() >= value[above & ~mask].max()
        rows.append(rows[-1] + len(call))
        routed.append(routed[-1] + int(mask.sum()))
    for i, start in enumerate(rows):
        for j, end in enumerate(rows[i:], i):
            bound = budget * (end - start) + (1 if i == 0 else most_kept)
            assert routed[j] - routed[i] <= bound + 1e-6


@settings(max_examples=100, deadline=None)
@given(budgets, st.lists(st.integers(0, 50), max_size=50), st.integers(0, 99))
def test_rows_above_the_threshold_use_the_whole_budget(budget, sizes, seed):
    meter = BudgetMeter(budget, seed)
    routed = sum(int(spend(meter, np.ones(size)).sum()) for size in sizes)
    assert math.floor(budget * sum(sizes)) <= routed
    if budget == 1:
        assert routed == sum(sizes)


@pytest.mark.parametrize("budget", [0.03, 0.1, 0.5])
def test_processes_of_one_row_route_the_budget_in_the_mean(budget):
    routed = [bool(spend(BudgetMeter(budget), [True], row=f"user {i}")[0]) for i in range(5000)]
    assert abs(np.mean(routed) - budget) < 4 * math.sqrt(budget * (1 - budget) / 5000)
    again = [bool(spend(BudgetMeter(budget), [True], row=f"user {i}")[0]) for i in range(5000)]
    assert again == routed
    other = [bool(spend(BudgetMeter(budget, 1), [True], row=f"user {i}")[0]) for i in range(5000)]
    assert other != routed


def test_a_long_time_of_single_rows_routes_the_budget_of_those_above():
    generator, meter = np.random.default_rng(0), BudgetMeter(0.1)
    often = sum(int(spend(meter, [generator.random() < 0.5])[0]) for _ in range(5000))
    assert 499 <= often <= 501
    rare = [generator.random() < 0.05 for _ in range(5000)]
    assert sum(int(spend(meter, [above])[0]) for above in rare) == sum(rare)


def test_unspent_credit_is_kept_for_a_thousand_rows():
    meter = BudgetMeter(0.1)
    for _ in range(50):
        spend(meter, np.zeros(1000))
    assert spend(meter, np.ones(300)).sum() == 130
    tiny = BudgetMeter(1e-4)
    spend(tiny, np.zeros(10**6))
    assert spend(tiny, np.ones(9)).sum() == 1


def test_a_large_call_spends_what_its_own_rows_add():
    value = np.random.default_rng(0).normal(size=100_000)
    mask = spend(BudgetMeter(0.1), np.ones(100_000), value)
    assert abs(mask.sum() - 10_000) <= 1
    assert value[mask].min() > value[~mask].max()


def test_of_equal_values_the_first_are_routed():
    above, value = np.array([False, True, True, True]), np.array([9.0, 1.0, 2.0, 1.0])
    assert most_valuable(above, value, 2).tolist() == [False, True, True, False]
    assert not most_valuable(above, value, -1).any()
    assert np.array_equal(most_valuable(above, value, 5), above)


@settings(max_examples=100, deadline=None)
@given(
    budgets,
    st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=40),
    st.sampled_from([OSError(), KeyboardInterrupt()]),
)
def test_a_call_that_fails_is_not_counted(budget, calls, error):
    meter, never_failed = BudgetMeter(budget), BudgetMeter(budget)
    for size, fails in [(1, False), *calls]:
        if fails:
            with pytest.raises(type(error)):
                spend(meter, np.ones(size), error=error)
            continue
        routed, expected = (spend(one, np.ones(size)).sum() for one in (meter, never_failed))
        assert routed == expected


def test_threads_lose_no_credit(monkeypatch):
    meter = BudgetMeter(0.3)

    def slow(*of):
        time.sleep(1e-3)  # lets another thread run between what is read and what is written
        return most_valuable(*of)

    monkeypatch.setattr(budget_module, "most_valuable", slow)
    with ThreadPoolExecutor(8) as pool:
        routed = sum(pool.map(lambda _: int(spend(meter, [True] * 3).sum()), range(200)))
    assert routed == math.floor(first_credit(0, "row") + 0.3 * 600 + 1e-6)


def test_a_budget_is_a_share():
    for budget in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="a share from 0 to 1"):
            BudgetMeter(budget)
