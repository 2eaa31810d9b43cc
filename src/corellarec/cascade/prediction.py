"""What a cascade answers."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corellarec.base.metrics import Floats, entropy


@dataclass(frozen=True)
class Prediction:
    """What the cascade answers for each sample.

    Args:
        p: ``(n,)`` the cascade's probability.
        p_crm: ``(n,)`` the calibrated CRM's probability.
        p_llm: ``(n,)`` the calibrated language model's, NaN where it was not asked.
        routed: ``(n,)`` whether the row went to the language model.
        answer: Source of a routed row's ``p``: ``blend`` or ``llm``.
    """

    p: Floats
    p_crm: Floats
    p_llm: Floats
    routed: NDArray[np.bool_]
    answer: str

    def to_frame(self) -> pl.DataFrame:
        """Columns ``p``, ``p_crm``, ``p_llm`` (null if not routed), ``source``, ``entropy``."""
        return pl.DataFrame(
            {
                "p": self.p,
                "p_crm": self.p_crm,
                "p_llm": pl.Series(self.p_llm, dtype=pl.Float64).fill_nan(None),
                "source": pl.Series(np.where(self.routed, self.answer, "crm"), dtype=pl.String),
                "entropy": entropy(self.p_crm),
            }
        )
