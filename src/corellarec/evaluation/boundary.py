"""How far apart the two models decide: what the alignment is meant to bring together."""

import numpy as np

from corellarec.base.metrics import Floats, Labels, calibration_error, to_logit

NEAR = (0.4, 0.6)  # probabilities of the CRM that are near the boundary


def boundary(label: Labels, crm: Floats, llm: Floats) -> dict[str, float]:
    """The shift of the decision boundary between two models' raw probabilities ``(n,)``.

    Returns the share of rows on which they decide differently, among all and among those where the
    CRM is near one half; the language model's mean minus the CRM's; the correlation of their
    logits; and the calibration error of each.
    """
    differ = (crm >= 0.5) != (llm >= 0.5)
    near = (crm > NEAR[0]) & (crm < NEAR[1])
    return {
        "disagree": float(differ.mean()),
        "disagree_near": float(differ[near].mean()) if near.any() else float("nan"),
        "shift": float(llm.mean() - crm.mean()),
        "correlation": float(np.corrcoef(to_logit(crm), to_logit(llm))[0, 1]),
        "crm_calibration_error": calibration_error(label, crm),
        "llm_calibration_error": calibration_error(label, llm),
    }
