"""Every way to use both models on scored rows; the only place here that applies a router."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from corellarec.base.metrics import Floats, entropy, losses, sigmoid
from corellarec.cascade.policy import Policy
from corellarec.cascade.router import Router, explain
from corellarec.cascade.scores import Scores
from corellarec.evaluation.parts import RouterSummary, ThresholdRow

PREDICTORS = {  # kind and name by key, in the order of the main table
    "crm": ("crm", "raw CRM"),
    "crm_calibrated": ("crm", "calibrated CRM"),
    "llm": ("llm", "raw LLM"),
    "llm_calibrated": ("llm", "calibrated LLM"),
    "paper": ("cascade", "paper's cascade"),
    "replace": ("cascade", "entropy, replace"),
    "blend_entropy": ("cascade", "entropy, blend"),
    "blend_gain": ("cascade", "gain, blend"),
    "blend_all": ("cascade", "blend on every row"),
    "cascade": ("cascade", "deployed cascade"),
}
COMPARED: tuple[Policy, ...] = ("entropy", "gain")


@dataclass(frozen=True)
class Answers:
    """Scored rows and the router between both models.

    Args:
        scores: The ``n`` test rows.
        router: The router, fitted on validation data.
    """

    scores: Scores
    router: Router

    @cached_property
    def predictions(self) -> dict[str, Floats]:
        """``(n,)`` probabilities of every way to use both models, by the keys of ``PREDICTORS``."""
        scores, router = self.scores, self.router
        crm, llm = sigmoid(scores.crm_logit), sigmoid(scores.llm_logit)
        crm_calibrated = sigmoid(router.crm(scores.crm_logit))
        llm_calibrated = sigmoid(router.llm(scores.llm_logit))
        blend = sigmoid(router.blend(scores.known, scores.llm_logit))
        by_entropy = self.masks["blend_entropy"]
        routed_answer = router.answer(scores.known, scores.llm_logit)
        return {
            "crm": crm,
            "crm_calibrated": crm_calibrated,
            "llm": llm,
            "llm_calibrated": llm_calibrated,
            "paper": np.where(self.masks["paper"], llm, crm),
            "replace": np.where(by_entropy, llm_calibrated, crm_calibrated),
            "blend_entropy": np.where(by_entropy, blend, crm_calibrated),
            "blend_gain": np.where(self.masks["blend_gain"], blend, crm_calibrated),
            "blend_all": blend,
            "cascade": np.where(self.masks["cascade"], routed_answer, crm_calibrated),
        }

    @cached_property
    def masks(self) -> dict[str, NDArray[np.bool_]]:
        """``(n,)`` whether the LLM answers each row, by the keys of ``predictions``."""
        none = np.zeros(len(self.scores.label), dtype=bool)
        by_entropy = self.router.routed(self.scores.known, "entropy")
        # The paper routes the share `budget` of rows with the highest entropy of the raw CRM.
        uncertainty = entropy(sigmoid(self.scores.crm_logit))
        return {
            "crm": none,
            "crm_calibrated": none,
            "llm": ~none,
            "llm_calibrated": ~none,
            "paper": uncertainty > np.quantile(uncertainty, 1 - self.router.budget),
            "replace": by_entropy,
            "blend_entropy": by_entropy,
            "blend_gain": self.router.routed(self.scores.known, "gain"),
            "blend_all": ~none,
            "cascade": self.router.routed(self.scores.known),
        }

    def share(self, key: str) -> float:
        """Share of the rows that the LLM answers, by a key of ``predictions``."""
        return float(self.masks[key].mean())

    @property
    def alone(self) -> Floats:
        """``(n,)`` the calibrated CRM's probabilities: what a row gets that is not routed."""
        return self.predictions["crm_calibrated"]

    @property
    def routed_answer(self) -> Floats:
        """``(n,)`` the probability that each row gets if it is routed."""
        key = "blend_all" if self.router.combine == "blend" else "llm_calibrated"
        return self.predictions[key]

    def values(self) -> dict[Policy, Floats]:
        """``(n,)`` value of routing each row, by policy."""
        return {policy: self.router.value(self.scores.known, policy) for policy in COMPARED}

    def thresholds(self, seed: int) -> list[ThresholdRow]:
        """What each policy's threshold promised on validation, and what it gives on these rows."""
        saved = losses(self.scores.label, self.alone) - losses(
            self.scores.label, self.routed_answer
        )
        rows = []
        for policy, value in self.values().items():
            rule, routed = self.router.rules[policy], self.masks[f"blend_{policy}"]
            share, verdict = rule.share, rule.verdict
            rows.append(
                ThresholdRow(
                    seed=seed,
                    policy=policy,
                    threshold=rule.threshold,
                    validation_share=share.routed / max(1, share.rows),
                    validation_bound=share.bound,
                    validation_gain=verdict.gain,
                    validation_gain_bound=verdict.bound,
                    helps=verdict.helps,
                    above=float((value > rule.threshold).mean()),
                    routed=float(routed.mean()),
                    gain=float(saved[routed].mean()) if routed.any() else float("nan"),
                )
            )
        return rows

    def summary(self) -> RouterSummary:
        """The router in a few facts."""
        return RouterSummary(
            policy=self.router.policy,
            combine=self.router.combine,
            budget=self.router.budget,
            helps=self.router.rule.verdict.helps,
            explanation=explain(self.router),
        )
