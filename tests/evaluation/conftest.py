"""Fixed scores and a fixed router: what is measured on them depends on the evaluation alone."""

import numpy as np
import pytest
from scipy.special import expit

from corellarec.base.calibrate import LogisticMap
from corellarec.cascade.blend import Blend
from corellarec.cascade.policy import Gain, Known
from corellarec.cascade.router import RoutedShare, Router, Rule, Verdict
from corellarec.cascade.scores import Scores

GAINS = Verdict(helps=True, routed=90, gain=0.09, bound=0.03)


@pytest.fixture(scope="session")
def make_scores():
    """Makes scores of rows on which the language model knows what the CRM does not."""

    def make(rows=1500, users=60, seed=0):
        generator = np.random.default_rng(seed)
        crm, llm = generator.normal(size=(2, rows)) * 1.2
        label = (generator.random(rows) < expit(crm + llm)).astype(np.int8)
        history, items = generator.integers(0, 30, rows), generator.integers(0, 200, rows)
        known = Known(crm, history.astype(float), items.astype(float), generator.random(rows))
        return Scores(generator.integers(0, users, rows), label, known, llm)

    return make


@pytest.fixture(scope="session")
def make_router():
    """Makes a router without a fit; its rules have the thresholds and the verdict given."""

    def make(thresholds=(0.21, 0.67), verdict=GAINS, **changes):
        share = RoutedShare(90, 1000, 0.11)
        parts = {
            "policy": "gain",
            "budget": 0.1,
            "hard": True,
            "combine": "blend",
            "crm": LogisticMap((0.8,), 0.1),
            "llm": LogisticMap((0.7,), -0.05),
            "blend": Blend((0.9, 0.8, 1.0, 0.7, 0.1, 0.02), -0.1, 29.0),
            "gain": Gain((0.0, 0.01, 0.1, 0.02, -0.01, 0.05) + (0.001,) * 21, 0.0,
                         (-3.0, 0.0, 0.1, 0.0, 0.0, 0.0), (3.0, 3.0, 0.7, 3.5, 5.5, 1.0)),
            "rules": {
                policy: Rule(threshold, share, verdict)
                for policy, threshold in zip(("gain", "entropy"), thresholds, strict=True)
            },
        }  # fmt: skip
        return Router(**{**parts, **changes})

    return make
