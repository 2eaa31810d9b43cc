"""The decision: which samples the language model sees, and what they get.

Everything here is fitted on validation data and can be applied to one sample at a time.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold

from corellarec.cascade.calibrate import LogisticMap, fit_logistic
from corellarec.cascade.policy import ENTROPY, Known, LinearValue, expected_gain, fit_gain
from corellarec.metrics import Floats, Labels, losses, resampled_users, sigmoid

Policy = Literal["gain", "entropy"]
POLICIES: tuple[Policy, ...] = ("gain", "entropy")
FOLDS = 5
RESAMPLES = 1000
CONFIDENCE = 0.95  # of the one-sided question whether asking helps
WORTH = 1e-4  # nats a routed row: less than this is rounding, not help
MIN_ROUTED = 30  # fewer routed validation rows cannot show anything


@dataclass(frozen=True)
class Verdict:
    """What validation says about asking the language model.

    Args:
        helps: Whether the bound lies above zero, by more than rounding.
        routed: Validation rows that the policy routes.
        gain: Mean log loss (nats) the answer saves on a routed row; 0 where too few are routed.
        bound: What it exceeds with 95 % confidence, users resampled.
    """

    helps: bool
    routed: int
    gain: float
    bound: float


@dataclass(frozen=True)
class Router:
    """A fitted decision.

    Args:
        policy: Whom to ask first: ``gain``, who is expected to gain most, or ``entropy``, the
            paper's, where the CRM is least confident.
        budget: Share of samples the language model may see.
        combine: What a routed sample gets: the ``blend`` of both, or ``replace``: the language
            model's own calibrated answer.
        crm: Calibration of the CRM.
        llm: Calibration of the language model.
        blend: Map from both logits to one.
        values: Value of asking under each policy.
        thresholds: Value above which a sample is routed, under each policy.
        verdicts: What validation says of each policy.
    """

    policy: Policy
    budget: float
    combine: Literal["blend", "replace"]
    crm: LogisticMap
    llm: LogisticMap
    blend: LogisticMap
    values: dict[str, LinearValue]
    thresholds: dict[str, float]
    verdicts: dict[str, Verdict]

    @property
    def verdict(self) -> Verdict:
        """Why the cascade asks, or does not."""
        return self.verdicts[self.policy]

    def value(self, known: Known, policy: Policy) -> Floats:
        """How much it is worth to ask about each sample."""
        return self.values[policy](known.features(self.crm))

    def would_ask(self, known: Known, policy: Policy) -> NDArray[np.bool_]:
        """Whether each sample is above a policy's threshold, whatever the verdict."""
        return self.value(known, policy) > self.thresholds[policy]

    def asks(self, known: Known) -> NDArray[np.bool_]:
        """Whether each sample goes to the language model."""
        if not self.verdict.helps:
            return np.zeros(len(known.crm_logit), dtype=bool)
        return self.would_ask(known, self.policy)

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

        def linear(kind: type, of: dict[str, Any]) -> Any:  # noqa: ANN401 (an instance of kind)
            return kind(tuple(of["weights"]), of["bias"])

        maps = {name: linear(LogisticMap, facts[name]) for name in ("crm", "llm", "blend")}
        values = {name: linear(LinearValue, of) for name, of in facts["values"].items()}
        verdicts = {name: Verdict(**of) for name, of in facts["verdicts"].items()}
        return cls(**{**facts, **maps, "values": values, "verdicts": verdicts})


def fit_router(
    *,
    known: Known,
    llm_logit: Floats,
    label: Labels,
    user: NDArray[np.int64],
    all_known: Known,
    all_label: Labels,
    policy: Policy,
    budget: float,
    combine: Literal["blend", "replace"],
    seed: int,
) -> Router:
    """Fit everything on validation data, and judge whether asking helps.

    The judgement is cross-fitted: whether a user's rows are routed, and what they get, is decided
    by maps, policy and threshold fitted on other users; the gain is the CRM's loss minus the
    answer's on the rows routed. If it does not exceed zero with 95 % confidence (users resampled),
    nothing is routed.

    Args:
        known: The ``n`` validation rows that both models scored ...
        llm_logit: ``(n,)`` ... the language model's logits ...
        label: ``(n,)`` ... their labels ...
        user: ``(n,)`` ... and users.
        all_known: All validation rows; they fix the CRM's calibration and the thresholds ...
        all_label: ... with their labels.
        policy: Whom to ask first.
        budget: Share of samples the language model may see.
        combine: What a routed sample gets.
        seed: Seed of the bootstrap.
    """
    gain, expected = np.zeros(len(label)), np.zeros(len(label))
    routed = {name: np.zeros(len(label), dtype=bool) for name in POLICIES}
    folds = min(FOLDS, len(np.unique(user)))
    for fit, held_out in GroupKFold(folds).split(label, groups=user) if folds > 1 else ():
        if label[fit].min() == label[fit].max():
            continue  # nothing to fit on: these rows are not routed and gain nothing
        crm_map = fit_logistic(label[fit], known.crm_logit[fit])
        blend_map = fit_logistic(label[fit], known.crm_logit[fit], llm_logit[fit])
        alone = sigmoid(crm_map(known.crm_logit))
        answer = blended = sigmoid(blend_map(known.crm_logit, llm_logit))
        if combine == "replace":
            answer = sigmoid(fit_logistic(label[fit], llm_logit[fit])(llm_logit))
        saved = losses(label, alone) - losses(label, answer)
        saving = expected_gain(alone, answer, blended)
        gain[held_out], expected[held_out] = saved[held_out], saving[held_out]
        features = known.features(crm_map)
        for name, value in _values(features[fit], saving[fit], saved[fit]).items():
            threshold = _threshold(value(features[fit]), budget, name)
            routed[name][held_out] = value(features[held_out]) > threshold
    crm = fit_logistic(all_label, all_known.crm_logit)
    values = _values(known.features(crm), expected, gain)
    return Router(
        policy=policy,
        budget=budget,
        combine=combine,
        crm=crm,
        llm=fit_logistic(label, llm_logit),
        blend=fit_logistic(label, known.crm_logit, llm_logit),
        values=values,
        thresholds={
            name: _threshold(value(all_known.features(crm)), budget, name)
            for name, value in values.items()
        },
        verdicts={name: _judge(gain[rows], user[rows], seed) for name, rows in routed.items()},
    )


def _values(features: Floats, expected: Floats, saved: Floats) -> dict[str, LinearValue]:
    return {"entropy": ENTROPY, "gain": fit_gain(features, expected, saved)}


def _threshold(value: Floats, budget: float, policy: str) -> float:
    """The value that a share ``budget`` lies above; a gain of zero is never worth asking."""
    threshold = float(np.quantile(value, 1 - budget)) if budget < 1 else float(value.min()) - 1.0
    return max(threshold, 0.0) if policy == "gain" else threshold


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
        f"saves {verdict.gain:+.4f} nats a row, with 95 % confidence more than {verdict.bound:+.4f}"
    )
    if verdict.helps:
        whom = "least confident" if router.policy == "entropy" else "most promising"
        return f"the {whom} {router.budget:.0%} go to the LLM: {measured}"
    return f"nothing is routed, the CRM answers alone: {measured}, which does not show a gain"


def _judge(gain: Floats, user: NDArray[np.int64], seed: int) -> Verdict:
    """The verdict on routed rows that gain so much."""
    if len(gain) < MIN_ROUTED:
        return Verdict(helps=False, routed=len(gain), gain=0.0, bound=0.0)
    means = [gain[rows].mean() for rows in resampled_users(user, RESAMPLES, seed)]
    bound = float(np.quantile(means, 1 - CONFIDENCE))
    return Verdict(bound > WORTH, len(gain), float(gain.mean()), bound)
