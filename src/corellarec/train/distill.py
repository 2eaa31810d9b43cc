"""Distillation: the language model's answers mixed into the CRM's training labels.

A gate weights each answer by the probability that it is better than the CRM's.

See also: Hinton et al. 2015, "Distilling the knowledge in a neural network",
https://arxiv.org/abs/1503.02531
"""

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from corellarec.base.metrics import Floats, Labels, losses, sigmoid


@dataclass(frozen=True)
class Lesson:
    """The gate's inputs; none comes from the CRM, which has memorised its training rows.

    Args:
        llm_logit: ``(n,)`` the language model's calibrated logits.
        history_length: ``(n,)`` rows of history.
        item_count: ``(n,)`` training rows of the item.
        liked_share: ``(n,)`` share of the history that was liked.
    """

    llm_logit: Floats
    history_length: Floats
    item_count: Floats
    liked_share: Floats

    def features(self) -> Floats:
        """``(n, 4)``: the language model's confidence, and how much data either model has."""
        return np.column_stack(
            [
                np.abs(self.llm_logit),
                np.log1p(self.history_length),
                np.log1p(self.item_count),
                self.liked_share,
            ]
        )


class Gate:
    """How likely the language model's answer is better than the CRM's, fitted on validation.

    Args:
        lesson: Validation rows.
        label: ``(n,)`` their labels.
        crm_logit: ``(n,)`` the CRM's calibrated logits.
    """

    def __init__(self, lesson: Lesson, label: Labels, crm_logit: Floats) -> None:
        crm, llm = sigmoid(crm_logit), sigmoid(lesson.llm_logit)
        better = losses(label, llm) < losses(label, crm)
        self._share, self._model = float(better.mean()), None
        if 0 < self._share < 1:
            model: Pipeline = make_pipeline(StandardScaler(), LogisticRegression())
            self._model = model.fit(lesson.features(), better)

    def __call__(self, lesson: Lesson) -> Floats:
        """``(n,)`` from 0 to 1."""
        if self._model is None:
            return np.full(len(lesson.llm_logit), self._share)
        return self._model.predict_proba(lesson.features())[:, 1]


def soft_targets(label: Labels, lesson: Lesson, gate: Floats, weight: float) -> Floats:
    """``(n,)`` what the CRM is trained towards: ``(1 - w g) y + w g p_llm``.

    Args:
        label: ``(n,)`` labels y.
        lesson: The rows.
        gate: ``(n,)`` g, from :class:`Gate`.
        weight: w, from 0 to 1.
    """
    share = weight * gate
    return (1 - share) * label + share * sigmoid(lesson.llm_logit)
