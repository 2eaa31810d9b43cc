"""The decision: which samples the language model sees, and what they get.

Everything here is fitted on validation data and can be applied to one sample at a time.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold

from corellarec.cascade.calibrate import LogisticMap, fit_logistic
from corellarec.metrics import Floats, Labels, entropy, interval, losses, resampled_users, sigmoid

FOLDS = 5
RESAMPLES = 1000
MIN_ROUTED = 30  # fewer routed validation rows cannot show anything


@dataclass(frozen=True)
class Verdict:
    """What validation says about asking the language model.

    Args:
        helps: Whether the gain's 95 % interval lies above zero.
        routed: Validation rows that the policy routes.
        gain: Mean log loss (nats) the answer saves on a routed row; NaN where none is routed.
        low, high: Its 95 % interval, users resampled.
    """

    helps: bool
    routed: int
    gain: float
    low: float
    high: float


@dataclass(frozen=True)
class Router:
    """A fitted decision.

    Args:
        budget: Share of samples the language model may see.
        combine: What a routed sample gets: the ``blend`` of both, or ``replace``: the language
            model's own calibrated answer.
        threshold: Entropy (nats) of the calibrated CRM above which a sample is routed.
        crm: Calibration of the CRM.
        llm: Calibration of the language model.
        blend: Map from both logits to one.
        verdict: Why the cascade asks, or does not.
    """

    budget: float
    combine: Literal["blend", "replace"]
    threshold: float
    crm: LogisticMap
    llm: LogisticMap
    blend: LogisticMap
    verdict: Verdict

    def uncertainty(self, crm_logit: Floats) -> Floats:
        """Entropy (nats) of the calibrated CRM."""
        return entropy(sigmoid(self.crm(crm_logit)))

    def asks(self, crm_logit: Floats) -> NDArray[np.bool_]:
        """Whether each sample goes to the language model."""
        if not self.verdict.helps:
            return np.zeros(len(crm_logit), dtype=bool)
        return self.uncertainty(crm_logit) > self.threshold

    def answer(self, crm_logit: Floats, llm_logit: Floats) -> Floats:
        """Probability for samples that were asked about."""
        if self.combine == "replace":
            return sigmoid(self.llm(llm_logit))
        return sigmoid(self.blend(crm_logit, llm_logit))

    def to_json(self) -> dict[str, Any]:
        """Plain values; :meth:`from_json` reads them back equal."""
        return asdict(self)

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> "Router":
        """The router of :meth:`to_json`."""
        maps = {
            name: LogisticMap(tuple(facts[name]["weights"]), facts[name]["bias"])
            for name in ("crm", "llm", "blend")
        }
        return cls(**{**facts, **maps, "verdict": Verdict(**facts["verdict"])})


def fit_router(
    *,
    crm_logit: Floats,
    llm_logit: Floats,
    label: Labels,
    user: NDArray[np.int64],
    all_crm_logit: Floats,
    all_label: Labels,
    budget: float,
    combine: Literal["blend", "replace"],
    seed: int,
) -> Router:
    """Fit calibrations, blend and threshold on validation data, and judge whether asking helps.

    The judgement is cross-fitted: each user's rows are predicted by maps fitted on other users,
    and the gain is the CRM's loss minus the cascade's on the rows that would be routed. If its
    95 % interval (users resampled) does not lie above zero, nothing is routed.

    Args:
        crm_logit: ``(n,)`` logits of the validation rows that both models scored ...
        llm_logit: ``(n,)`` ... of both models ...
        label: ``(n,)`` ... their labels ...
        user: ``(n,)`` ... and users.
        all_crm_logit: ``(m,)`` logits of all validation rows; they fix the CRM's calibration and
            the threshold ...
        all_label: ``(m,)`` ... with their labels.
        budget: Share of samples the language model may see.
        combine: What a routed sample gets.
        seed: Seed of the bootstrap.
    """
    crm = fit_logistic(all_label, all_crm_logit)
    uncertainty = entropy(sigmoid(crm(all_crm_logit)))
    threshold = float(np.quantile(uncertainty, 1 - budget)) if budget < 1 else -1.0
    routed = entropy(sigmoid(crm(crm_logit))) > threshold
    gain = np.zeros(len(label))
    folds = min(FOLDS, len(np.unique(user)))
    judged = routed.sum() >= MIN_ROUTED and folds > 1
    if judged:
        for fit, held_out in GroupKFold(folds).split(label, groups=user):
            if label[fit].min() == label[fit].max():
                judged = False
                break
            crm_map = fit_logistic(label[fit], crm_logit[fit])
            inputs = (llm_logit,) if combine == "replace" else (crm_logit, llm_logit)
            answer_map = fit_logistic(label[fit], *(x[fit] for x in inputs))
            answer = sigmoid(answer_map(*(x[held_out] for x in inputs)))
            alone = sigmoid(crm_map(crm_logit[held_out]))
            gain[held_out] = losses(label[held_out], alone) - losses(label[held_out], answer)
    verdict = _judge(gain, routed, user, seed) if judged else _unjudged(int(routed.sum()))
    return Router(
        budget=budget,
        combine=combine,
        threshold=threshold,
        crm=crm,
        llm=fit_logistic(label, llm_logit),
        blend=fit_logistic(label, crm_logit, llm_logit),
        verdict=verdict,
    )


def explain(router: Router) -> str:
    """The verdict of validation in one sentence."""
    verdict = router.verdict
    if verdict.routed < MIN_ROUTED:
        return (
            f"nothing is routed: only {verdict.routed} validation rows would be, and fewer than "
            f"{MIN_ROUTED} cannot show a gain"
        )
    measured = (
        f"on the {verdict.routed:,} validation rows it would answer, the LLM ({router.combine}) "
        f"saves {verdict.gain:+.4f} nats a row, 95 % interval {verdict.low:+.4f} to "
        f"{verdict.high:+.4f}"
    )
    if verdict.helps:
        return f"the least confident {router.budget:.0%} go to the LLM: {measured}"
    return f"nothing is routed, the CRM answers alone: {measured}, which does not show a gain"


def _unjudged(routed: int) -> Verdict:
    return Verdict(helps=False, routed=routed, gain=0.0, low=0.0, high=0.0)


def _judge(gain: Floats, routed: NDArray[np.bool_], user: NDArray[np.int64], seed: int) -> Verdict:
    gain, user = gain[routed], user[routed]
    means = np.array([gain[rows].mean() for rows in resampled_users(user, RESAMPLES, seed)])
    low, high = interval(means)
    return Verdict(bool(low > 0), int(routed.sum()), float(gain.mean()), low, high)
