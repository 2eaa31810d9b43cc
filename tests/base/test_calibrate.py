import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from corellarec.base.calibrate import PENALTY, bounded, fit_logistic
from corellarec.base.errors import DataError


def draw(seed, inputs=3, rows=2000, weights=(1.0, 0.5, 0.2)):
    """Correlated inputs of unlike scales, and labels that follow some weights."""
    generator = np.random.default_rng(seed)
    common = generator.normal(size=rows)
    scale = 10 ** generator.uniform(-1, 1, inputs)
    columns = (common + generator.normal(size=(inputs, rows))) * scale[:, None]
    logit = sum(w * x / s for w, x, s in zip(weights, columns, scale, strict=False))
    return (generator.random(rows) < expit(logit - 0.5)).astype(np.int8), list(columns)


def test_platt_scaling_undoes_a_linear_map():
    generator = np.random.default_rng(0)
    logit = generator.normal(size=20_000) * 2
    label = (generator.random(20_000) < expit(logit)).astype(np.int8)
    found = fit_logistic(label, 3 * logit + 1)
    assert found.weights[0] == pytest.approx(1 / 3, rel=0.05)
    assert found.bias == pytest.approx(-1 / 3, abs=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_equal_to_scikit_learn_where_no_weight_would_be_negative(seed):
    label, inputs = draw(seed)
    found = fit_logistic(label, *inputs)
    columns = np.column_stack([bounded(x) for x in inputs])
    exact = LogisticRegression(C=PENALTY, solver="newton-cholesky", tol=1e-12).fit(columns, label)
    assert exact.coef_.min() > 0
    assert found.weights == pytest.approx(exact.coef_[0], abs=1e-4)
    assert expit(found(*inputs)) == pytest.approx(exact.predict_proba(columns)[:, 1], abs=1e-6)


def test_a_weight_that_would_be_negative_is_zero():
    label, (crm, llm, _) = draw(0)
    found = fit_logistic(label, crm, -llm)
    assert found.weights[1] == 0
    alone = fit_logistic(label, crm)
    assert found.weights[0] == pytest.approx(alone.weights[0], abs=1e-6)
    assert fit_logistic(label, crm, -llm, free=1).weights[1] < 0
    nothing = fit_logistic(label, -crm)
    assert nothing.weights == (0.0,)
    assert expit(nothing.bias) == pytest.approx(label.mean())


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 5),
    st.integers(0, 2),
    st.lists(st.floats(-2, 2), min_size=5, max_size=5),
)
def test_the_solution_is_optimal(seed, inputs, free, weights):
    """The Karush-Kuhn-Tucker conditions of the penalized likelihood, per row."""
    free = min(free, inputs)
    label, columns = draw(seed, inputs, rows=400, weights=weights)
    if label.min() == label.max():
        return
    found = fit_logistic(label, *columns, free=free)
    residual = expit(found(*columns)) - label
    assert residual.mean() == pytest.approx(0, abs=1e-7)
    for number, (weight, column) in enumerate(zip(found.weights, columns, strict=True)):
        held = bounded(column)
        gradient = (residual @ held + weight / PENALTY) / len(label) / held.std()
        if weight == 0 and number < inputs - free:
            assert gradient > -1e-7
        else:
            assert number >= inputs - free or weight > 0
            assert gradient == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("value", [2.0, -1e300, 0.1 + 0.2])
def test_a_constant_input_gets_no_weight(value):
    label, (crm, _, _) = draw(0)
    found = fit_logistic(label, np.full(len(label), value), crm)
    assert found.weights[0] == pytest.approx(0, abs=1e-9)
    assert found.weights[1] == pytest.approx(fit_logistic(label, crm).weights[0])


def test_labels_that_an_input_separates_have_a_finite_map():
    label = np.repeat([0, 1], 50).astype(np.int8)
    found = fit_logistic(label, np.linspace(-1, 1, 100))
    assert np.isfinite([*found.weights, found.bias]).all()
    assert (np.abs(expit(found(np.array([-1.0, 1.0]))) - [0, 1]) < 1e-6).all()


@pytest.mark.parametrize(("label", "found"), [([1, 1, 1], "all 3 are 1"), ([], "there are none")])
def test_labels_of_one_kind_are_refused(label, found):
    with pytest.raises(DataError, match=f"labels of both kinds, 0 and 1, but {found}: use more"):
        fit_logistic(np.array(label, dtype=np.int8), np.zeros(len(label)))
