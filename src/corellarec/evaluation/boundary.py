"""How far apart the two models decide: what the alignment is meant to bring together."""

import numpy as np
from numpy.typing import NDArray

from corellarec.base.metrics import Floats, Labels, calibration_error, to_logit
from corellarec.evaluation.parts import Boundary

NEAR = (0.4, 0.6)  # probabilities of the CRM that are near the boundary


def boundary(label: Labels, crm: Floats, llm: Floats, user: NDArray[np.int64]) -> Boundary:
    """The shift of the decision boundary between two models' raw probabilities ``(n,)``."""
    differ = (crm >= 0.5) != (llm >= 0.5)
    near = (crm > NEAR[0]) & (crm < NEAR[1])
    return Boundary(
        disagree=float(differ.mean()),
        disagree_near=float(differ[near].mean()) if near.any() else float("nan"),
        shift=float(llm.mean() - crm.mean()),
        correlation=float(np.corrcoef(to_logit(crm), to_logit(llm))[0, 1]),
        crm_calibration_error=calibration_error(label, crm, user),
        llm_calibration_error=calibration_error(label, llm, user),
    )
