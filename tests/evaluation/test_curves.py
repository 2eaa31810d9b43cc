import numpy as np
import pytest
from scipy.special import expit

from corellarec.base.bootstrap import Bootstrap
from corellarec.evaluation.curves import at_budgets, curves
from corellarec.evaluation.figures import Figures


@pytest.fixture
def world():
    """The second model knows half of the rows, and the policy ``gain`` which."""
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(2, 4000)) * 1.2
    knows = generator.random(4000) < 0.5
    label = (generator.random(4000) < expit(first + second * knows)).astype(np.int8)
    user = generator.integers(0, 100, 4000)
    values = {"gain": knows.astype(float), "entropy": generator.random(4000)}
    figures = Figures(label, user, Bootstrap(user, 100, 0))
    return figures, values, expit(first), expit(first + second * knows)


def test_policies_lie_between_a_random_order_and_an_oracle(world):
    figures, values, alone, answer = world
    found = curves(figures, values, alone, answer, configured=0.1, seed=0).policies
    assert found["random"].area["auc"] == 0
    for metric, better in (("auc", 1), ("log_loss", -1)):
        oracle, gain = (better * found[name].area[metric] for name in ("oracle", "gain"))
        assert oracle > gain > 0.003
        assert abs(found["entropy"].area[metric]) < 0.003
        for curve in found.values():  # no row routed, and every row
            line = getattr(curve, metric)
            assert line[0] == pytest.approx(figures.value(metric, alone))
            assert line[-1] == pytest.approx(figures.value(metric, answer))


def test_policies_are_compared_at_the_same_share(world):
    figures, values, alone, answer = world
    points = at_budgets(figures, [values], [alone], [answer])
    assert [point.budget for point in points] == [0.05, 0.1, 0.2, 0.3]
    for point in points:
        gap = point.gain_over_entropy["auc"]
        assert gap.value == pytest.approx(point.gain["auc"].value - point.entropy["auc"].value)
        assert gap.low < gap.value < gap.high
        assert point.gain_over_crm["auc"].low > 0
