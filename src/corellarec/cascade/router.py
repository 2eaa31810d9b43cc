"""A fitted decision: which rows are routed to the LLM, and what a routed row gets.

:func:`corellarec.cascade.fit.fit_router` fits it on validation data.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field

from corellarec.base.calibrate import LogisticMap
from corellarec.base.metrics import Floats, sigmoid
from corellarec.base.numbers import Count, Finite, Positive, Share
from corellarec.cascade.blend import Blend
from corellarec.cascade.budget import Mask, most_allowed, most_valuable
from corellarec.cascade.policy import POLICIES, Gain, Known, Policy, value

Combine = Literal["blend", "replace"]
MIN_GAIN = 1e-4  # nats a routed row: less than this is rounding
MIN_ROUTED = 30  # fewer routed validation rows cannot show a gain


@dataclass(frozen=True)
class Verdict:
    """Whether routing lowers the log loss on validation.

    Args:
        helps: Whether the lower bound of the gain is above zero by more than rounding.
        routed: Validation rows that the policy routes.
        gain: Mean log loss (nats) saved on a routed row; 0 where too few are routed.
        bound: Lower bound of the gain at 95 % confidence, users resampled.
    """

    helps: bool
    routed: Count
    gain: Finite
    bound: Finite


@dataclass(frozen=True)
class RoutedShare:
    """Share of validation rows that a policy routes, each row by a fit on other users.

    Args:
        routed: Rows above the threshold.
        rows: Rows in all.
        bound: Upper bound of the share at 95 % confidence (Clopper-Pearson). It is exact for
            independent rows; rows of one user are dependent and later rows drift, so that here it
            is a guide.

    Source: Clopper and Pearson 1934, https://doi.org/10.1093/biomet/26.4.404
    """

    routed: Count
    rows: Positive
    bound: Share


@dataclass(frozen=True)
class Rule:
    """What was fitted for one policy.

    Args:
        threshold: Value of routing (nats) above which a row is routed.
        share: Share of validation rows above it.
        verdict: Whether routing them lowers the log loss.
    """

    threshold: Finite
    share: RoutedShare
    verdict: Verdict


def _of_one_logit(found: LogisticMap) -> LogisticMap:
    if len(found.weights) != 1:
        raise ValueError(f"a calibration has one weight, not {len(found.weights)}")
    return found


Calibration = Annotated[LogisticMap, AfterValidator(_of_one_logit)]


@dataclass(frozen=True)
class Router:
    """A fitted decision.

    Args:
        policy: Which rows are routed first: ``gain``, those with the largest expected gain;
            ``entropy``, the paper's, those where the CRM is least confident.
        budget: Share of rows to route, 0 to 1: the one that was set, the best on validation, or
            the share of validation rows above a threshold that was set.
        hard: Whether the budget was set. It then holds whatever later rows are like; otherwise
            the threshold alone decides.
        combine: What a routed row gets: the ``blend`` of both models, or ``replace``: the LLM's
            own calibrated answer.
        crm: Calibration of the CRM.
        llm: Calibration of the LLM.
        blend: Map from both logits, history length and item popularity to one logit.
        gain: Map from what is known of a row to the log loss that routing it saves.
        rules: Threshold, share and verdict of each policy.
    """

    policy: Policy
    budget: Share
    hard: bool
    combine: Combine
    crm: Calibration
    llm: Calibration
    blend: Blend
    gain: Gain
    rules: Annotated[dict[Policy, Rule], Field(min_length=len(POLICIES))]

    @property
    def rule(self) -> Rule:
        """The rule of the router's own policy."""
        return self.rules[self.policy]

    @property
    def limit(self) -> float:
        """Largest share of rows that may be routed: the budget if it is hard, else 1."""
        return self.budget if self.hard else 1.0

    def value(self, known: Known, policy: Policy | None = None) -> Floats:
        """Value ``(n,)`` in nats of routing each row; by default under the router's own policy."""
        return value(policy or self.policy, known.features(self.crm), self.gain)

    def above(self, known: Known, policy: Policy | None = None) -> Mask:
        """Whether each row ``(n,)`` is above the threshold, whatever the other rows are.

        Args:
            known: The rows.
            policy: A policy to apply whatever its verdict. By default it is the router's own, and
                no row is above where the verdict is that routing does not help.
        """
        if policy is None and not self.rule.verdict.helps:
            return np.zeros(len(known.crm_logit), dtype=bool)
        rule = self.rule if policy is None else self.rules[policy]
        return self.value(known, policy) > rule.threshold

    def routed(self, known: Known, policy: Policy | None = None) -> Mask:
        """Whether each row ``(n,)`` is routed if these are all rows there are.

        Rows above the threshold are; later rows drift, and if more are above it than a hard
        budget allows, only the most valuable are routed. Rows that arrive in several calls share
        one :class:`~corellarec.cascade.budget.BudgetMeter` instead.

        Args:
            known: The rows.
            policy: As in :meth:`above`.
        """
        above = self.above(known, policy)
        allowed = most_allowed(self.limit, len(above))
        if above.sum() <= allowed:
            return above
        return most_valuable(above, self.value(known, policy), allowed)

    def answer(self, known: Known, llm_logit: Floats) -> Floats:
        """Probability ``(n,)`` of routed rows.

        Args:
            known: The rows.
            llm_logit: ``(n,)`` the LLM's raw logits.
        """
        if self.combine == "replace":
            return sigmoid(self.llm(llm_logit))
        return sigmoid(self.blend(known, llm_logit))


def explain(router: Router) -> str:
    """The router's rule and its verdict in a few sentences, from small letter to no full stop."""
    verdict, share = router.rule.verdict, router.rule.share
    if verdict.routed < MIN_ROUTED:
        return (
            f"the router sends no rows to the LLM: only {verdict.routed} validation rows would be "
            f"routed, and fewer than {MIN_ROUTED} cannot show a gain"
        )
    if not verdict.helps:
        return (
            "the router sends no rows to the LLM: validation shows no significant gain. On the "
            f"{verdict.routed:,} validation rows that the LLM ({router.combine}) would answer, the "
            f"mean saving is {verdict.gain:+.4f} nats a row, and its lower bound at 95 % "
            f"confidence, {verdict.bound:+.5f}, is not above {MIN_GAIN:g}"
        )
    which = "most promising" if router.policy == "gain" else "least confident"
    limit, bound = ", never more", ""
    if not router.hard:
        limit, bound = "", f" (95 % confidence: less than {share.bound:.1%} of rows like these)"
    return (
        f"the router sends the {which} {router.budget:.0%} of the rows to the LLM{limit}. Of the "
        f"validation rows, judged by fits on other users, {verdict.routed:,} are above the "
        f"threshold, {share.routed / share.rows:.1%}{bound}. There the LLM ({router.combine}) "
        f"saves {verdict.gain:+.4f} nats a row (95 % confidence: more than {verdict.bound:+.4f})"
    )
