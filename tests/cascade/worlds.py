"""Made-up validation rows, and routers fitted on them."""

import numpy as np
from scipy.special import expit

from corellarec.cascade.fit import Population, fit_router
from corellarec.cascade.policy import Known
from corellarec.cascade.scores import Scores


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
    budget = 0.2 if budget is None and threshold is None else budget
    return fit_router(
        Scores(data["user"], data["label"], known(data), llm),
        Population(known(data), data["label"]),
        policy=policy,
        budget=budget,
        threshold=threshold,
        combine=combine,
        seed=0,
    )


def busy(seed, rows=3000):
    """The language model knows the more, the longer the history; the CRM is wrong about some."""
    data = world(seed, rows)
    generator = np.random.default_rng(seed + 1)
    history, count = generator.integers(0, 51, rows) * 1.0, generator.integers(0, 500, rows) * 1.0
    data["facts"] = np.stack([history, count, generator.random(rows)])
    truth = data["crm"] + data["llm"] * np.log1p(history) / 4 + 0.3 * (history < 5)
    data["label"] = (generator.random(rows) < expit(truth)).astype(np.int8)
    return data
