"""Rows that both models scored."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from corellarec.base.metrics import Floats, Labels
from corellarec.cascade.policy import Known


@dataclass(frozen=True)
class Scores:
    """Rows that both models scored, with their labels.

    Args:
        user: ``(n,)`` user numbers.
        label: ``(n,)`` of 0 and 1.
        known: What is known before the language model is asked, the CRM's raw logits among it.
        llm_logit: ``(n,)`` the language model's raw logits.
    """

    user: NDArray[np.int64]
    label: Labels
    known: Known
    llm_logit: Floats

    @property
    def crm_logit(self) -> Floats:
        """``(n,)`` the CRM's raw logits."""
        return self.known.crm_logit
