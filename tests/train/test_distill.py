"""What the LLM teaches the CRM: targets, the gate, and the step of a run."""

import numpy as np
import pytest
from scipy.special import expit

from corellarec.train.distill import Gate, Lesson, soft_targets


def draw(rows=4000, seed=0):
    """A lesson whose LLM knows the truth of popular items and nothing of the others."""
    generator = np.random.default_rng(seed)
    truth = generator.normal(scale=2, size=rows)
    label = (generator.random(rows) < expit(truth)).astype(np.int8)
    count = generator.choice([1.0, 1000.0], rows)
    llm = np.where(count > 1, truth, generator.normal(scale=2, size=rows))
    lesson = Lesson(llm, generator.integers(1, 90, rows) * 1.0, count, generator.random(rows))
    return lesson, label, count > 1


def test_the_gate_opens_where_the_llm_is_better():
    lesson, label, popular = draw()
    gate = Gate(lesson, label, np.zeros(len(label)))(lesson)
    assert ((gate >= 0) & (gate <= 1)).all()
    assert gate[popular].min() > 0.5
    assert gate[popular].mean() > gate[~popular].mean() + 0.1


def test_a_gate_with_one_outcome_is_that_outcome():
    lesson, label, _ = draw(50)
    surely = np.where(label == 1, 30.0, -30.0)
    assert (Gate(lesson, label, surely)(lesson) == 0).all()


def test_targets_lie_between_label_and_answer():
    lesson, label, _ = draw(200)
    gate = np.linspace(0, 1, 200)
    assert soft_targets(label, lesson, gate, 0.0) == pytest.approx(label)
    assert soft_targets(label, lesson, np.ones(200), 1.0) == pytest.approx(expit(lesson.llm_logit))
    half = soft_targets(label, lesson, gate, 0.5)
    low = np.minimum(label, expit(lesson.llm_logit))
    assert ((half >= low) & (half <= np.maximum(label, expit(lesson.llm_logit)))).all()
    assert half[0] == label[0]
