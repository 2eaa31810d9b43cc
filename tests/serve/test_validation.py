"""What the explorer tells from validation rows, and what it says of drift."""

import numpy as np
import polars as pl
import pytest

from corellarec.base.metrics import auc, losses
from corellarec.cascade.cascade import Cascade
from corellarec.cascade.policy import Known
from corellarec.evaluation.curves import routed
from corellarec.serve.explore.charts import bar, line_chart
from corellarec.serve.explore.live import quantiles
from corellarec.serve.explore.validation import BUDGETS, Validation
from corellarec.serve.model import ServedModel
from corellarec.serve.recent import ROWS, Recent, psi


@pytest.fixture
def made():
    """2,000 rows of 100 users; the LLM is better where the value says so."""
    generator = np.random.default_rng(3)
    count = 2000
    truth = generator.uniform(0.05, 0.95, count)
    label = (generator.uniform(size=count) < truth).astype(np.int8)
    crm, value = np.full(count, 0.5), np.abs(truth - 0.5)
    p = {"crm": crm, "llm": truth, "both": truth}
    halves = {"even": np.arange(count) % 2 == 0, "odd": np.arange(count) % 2 == 1}
    users = np.arange(count) % 100
    return Validation(users, label, p, value, {"number": halves, "none": {"x": value < 0}})


def test_a_budget_brings_what_routing_brings(made):
    for budget in (0.0, 0.3, 1.0):
        found = made.at(budget)
        p = routed(made.value, budget, made.p["crm"], made.p["both"])
        assert found.asked == budget
        assert found.auc == pytest.approx(auc(made.label, p))
        assert found.log_loss == pytest.approx(losses(made.label, p).mean())
        alone = losses(made.label, made.p["crm"]).mean()
        assert found.saved == pytest.approx(alone - found.log_loss)
        assert found.low <= found.saved <= found.high
        assert made.curve()[np.searchsorted(BUDGETS, budget)] == pytest.approx(found.log_loss)
    assert made.at(0.3).low > 0


def test_groups_are_those_of_the_rows_asked_about(made):
    groups = made.groups(0.25)
    assert [(one.way, one.name, one.rows) for one in groups] == [
        ("number", "even", 1000), ("number", "odd", 1000),
    ]  # fmt: skip
    assert sum(one.asked * one.rows for one in groups) == pytest.approx(500)
    assert all(one.saved > 0 for one in groups)
    assert np.isnan(made.groups(0.0)[0].saved)


def test_a_spread_is_of_the_nearest_rows(made):
    for p in (0.0, 0.4, 0.9, 1.0):
        found = made.spread("llm", p)
        nearest = np.argsort(np.abs(made.p["llm"] - p), kind="stable")[:200]
        assert found.rows == 200
        assert found.share == pytest.approx(made.label[nearest].mean(), abs=0.06)
        assert found.low < found.share < found.high
    assert "of the 200 validation rows" in bar(0.4, "llm", "the LLM", made.spread("llm", 0.4))


def test_those_about_whom_the_models_disagree(made):
    apart = np.abs(made.p["llm"] - made.p["crm"])
    means = [apart[made.user == user].mean() for user in range(100)]
    assert set(made.disagreeing()) == set(np.argsort(means)[-10:])


def test_a_runs_rows_are_those_that_its_router_was_fitted_on(run):
    cascade = Cascade.load(run, device="cpu")
    model = ServedModel(cascade, "v1")
    found = Validation.of_run(run, model)
    assert len(found.label) == cascade.router.rule.share.rows
    log, users = cascade.log, cascade.log.users["id"]
    rows = pl.read_parquet(run / "scores" / "validation" / "scores.parquet")["row"].to_numpy()
    taken = log.rows[rows]
    pairs = pl.DataFrame(
        {
            "user": users.gather(taken["user"].to_numpy()),
            "item": log.items["id"].gather(taken["item"].to_numpy()),
            "time": taken["time"],
        }
    )
    assert found.user.tolist() == taken["user"].to_list()
    assert found.label.tolist() == taken["label"].to_list()
    p_crm = cascade.predict(pairs)["p_crm"].to_numpy()
    # Predict takes the last row of a repeated pair, and leaves out what happened at the same time.
    unique = [log.rows.select("user", name).is_unique().to_numpy() for name in ("item", "time")]
    once = (unique[0] & unique[1])[rows]
    assert once.sum() > 50
    np.testing.assert_allclose(found.p["crm"][once], p_crm[once], atol=1e-6)
    assert Validation.of_run(None, model) is None
    assert Validation.of_run(run / "cascade", model) is None


def test_rows_that_become_others_are_an_alarm():
    generator, recent = np.random.default_rng(0), Recent()

    def add(count, low, high):
        for _ in range(count // 100):
            p = generator.uniform(low, high, 100)
            recent.add(p, Known(p, np.full(100, 7.0), p * 100, p), 3)

    add(ROWS, 0, 1)
    assert recent.drift() == []
    add(ROWS, 0, 1)
    assert [one.alarm for one in recent.drift()] == [False, False, False]
    assert recent.drift()[0].psi < 0.02
    add(ROWS, 0.4, 1)
    first = recent.drift()[0]
    assert first.alarm
    assert (first.before, first.now) == (pytest.approx(0.5, abs=0.02), pytest.approx(0.7, abs=0.02))
    assert not recent.drift()[1].alarm  # the history length is what it was
    recent.tick()
    recent.tick()
    assert list(recent.points) == [(3 * ROWS, 9 * ROWS // 100), (0, 0)]
    recent.clear()
    assert recent.drift() == []


def test_the_index_is_that_of_its_definition():
    before, now = np.repeat([0.0, 1.0], [50, 50]), np.repeat([0.0, 1.0], [20, 80])
    # Deciles of two values make four bins, two of them empty; each count has half a row more.
    share, then = np.array([50.5, 50.5]) / 102, np.array([20.5, 80.5]) / 102
    assert psi(before, now) == pytest.approx(((then - share) * np.log(then / share)).sum())
    assert psi(before, before) == 0


def test_quantiles_are_read_from_the_histogram():
    edges = {"0.01": 50, "0.1": 90, "1.0": 100, "+Inf": 100}
    buckets = [({"le": edge, "route": "/x"}, n) for edge, n in edges.items()]
    buckets += [({"le": "0.01", "route": "/y"}, 7)]
    assert quantiles(buckets, "/x") == pytest.approx([10, 550, 910])


def test_a_chart_of_equal_values_is_drawn():
    found = line_chart("<a>", [0, 1], {"b<": ("crm", [2.0, 2.0])}, ("0", "1"), 1, mark=0.5)
    assert "nan" not in found
    assert "<a>" not in found
    assert "b<" not in found
