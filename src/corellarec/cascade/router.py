"""The decision: which samples the language model sees, and what they get.

Everything here is fitted on validation data and can be applied to one sample at a time.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta
from sklearn.model_selection import GroupKFold

from corellarec.base.calibrate import LogisticMap, fit_logistic
from corellarec.base.errors import ArtifactError
from corellarec.base.metrics import Floats, Labels, losses, sigmoid
from corellarec.cascade.blend import Blend, fit_full, fit_plain
from corellarec.cascade.policy import POLICIES, Gain, Known, Policy, expected_gain, fit_gain, value
from corellarec.cascade.threshold import NOBODY, blocks, budget_needed, threshold_of

FOLDS = 5
RESAMPLES = 1000
CONFIDENCE = 0.95  # of the one-sided questions whether asking helps, and how many are asked about
WORTH = 1e-4  # nats a routed row: less than this is rounding, not help
MIN_ROUTED = 30  # fewer routed validation rows cannot show anything
SHARES = np.linspace(0, 1, 101)  # among which "best" chooses


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
class Share:
    """How many a policy asks about, counted on validation rows of users it was not fitted on.

    Args:
        asked: Rows above the threshold ...
        rows: ... of so many.
        bound: What the share stays below with 95 % confidence, whatever the distribution of the
            rows, if they are drawn alike (Clopper and Pearson's exact bound). Rows of one user are
            not drawn alone, and later ones drift: on these the bound is a guide.

    Source: Clopper and Pearson 1934, https://doi.org/10.1093/biomet/26.4.404
    """

    asked: int
    rows: int
    bound: float


@dataclass(frozen=True)
class Router:
    """A fitted decision.

    Args:
        policy: Which rows are routed first: ``gain``, those with the largest expected gain;
            ``entropy``, the paper's, those where the CRM is least confident.
        budget: Share of samples the language model may see: as it was set, or the best on
            validation, or the one that a set threshold has there.
        limit: The budget if it was set, which then holds whatever later samples are like; else 1.
        combine: What a routed sample gets: the ``blend`` of both, or ``replace``: the language
            model's own calibrated answer.
        crm: Calibration of the CRM.
        llm: Calibration of the language model.
        blend: Map from both logits, history length and item popularity to one logit.
        gain: The log loss that asking is expected to save.
        thresholds: Value above which a sample is routed, under each policy.
        shares: How many each policy asks about.
        verdicts: What validation says of each policy.
    """

    policy: Policy
    budget: float
    limit: float
    combine: Literal["blend", "replace"]
    crm: LogisticMap
    llm: LogisticMap
    blend: Blend
    gain: Gain
    thresholds: dict[str, float]
    shares: dict[str, Share]
    verdicts: dict[str, Verdict]

    @property
    def verdict(self) -> Verdict:
        """Why the cascade asks, or does not."""
        return self.verdicts[self.policy]

    def value(self, known: Known, policy: Policy) -> Floats:
        """How much it is worth to ask about each sample."""
        return value(policy, known.features(self.crm), self.gain)

    def allowed(self, samples: int) -> int:
        """How many of so many samples may be asked about."""
        return math.ceil(self.limit * samples - 1e-9)

    def would_ask(
        self, known: Known, policy: Policy, allowed: int | None = None
    ) -> NDArray[np.bool_]:
        """Whether each sample is to be asked about under a policy, whatever the verdict.

        It is where its value is above the threshold. Later samples drift, and more may be than the
        budget allows: then the most valuable are asked about.

        Args:
            known: The samples.
            policy: Whom to ask first.
            allowed: How many may be asked about at most; by default :meth:`allowed` of these.
        """
        worth = self.value(known, policy)
        allowed = self.allowed(len(worth)) if allowed is None else allowed
        asked = worth > self.thresholds[policy]
        asked[np.argsort(-worth, kind="stable")[allowed:]] = False
        return asked

    def asks(self, known: Known, allowed: int | None = None) -> NDArray[np.bool_]:
        """Whether each sample goes to the language model; of :meth:`would_ask` if that helps."""
        if not self.verdict.helps:
            return np.zeros(len(known.crm_logit), dtype=bool)
        return self.would_ask(known, self.policy, allowed)

    def answer(self, known: Known, llm_logit: Floats) -> Floats:
        """Probability for samples that were asked about."""
        if self.combine == "replace":
            return sigmoid(self.llm(llm_logit))
        return sigmoid(self.blend(known, llm_logit))

    def to_json(self) -> dict[str, Any]:
        """Plain values; :meth:`from_json` reads them back equal."""
        return asdict(self)

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> "Router":
        """The router of :meth:`to_json`.

        Raises:
            ArtifactError: If another version wrote it.
        """
        if missing := {field.name for field in fields(cls)} - facts.keys():
            raise ArtifactError(
                f"the cascade was fitted by another version ({', '.join(sorted(missing))} not "
                "found): `corellarec evaluate RUN` fits it again"
            )

        def read(kind: type, of: dict[str, Any]) -> Any:  # noqa: ANN401 (an instance of kind)
            return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in of.items()})

        kinds = {"crm": LogisticMap, "llm": LogisticMap, "blend": Blend, "gain": Gain}
        parts = {name: read(kind, facts[name]) for name, kind in kinds.items()}
        for name, kind in {"shares": Share, "verdicts": Verdict}.items():
            parts[name] = {policy: read(kind, of) for policy, of in facts[name].items()}
        return cls(**{**facts, **parts})


Fold = tuple[NDArray[np.int64], NDArray[np.int64]]  # rows to fit on, rows held out
FitBlend = Callable[[Labels, Known, Floats], Blend]


def fit_router(
    *,
    known: Known,
    llm_logit: Floats,
    label: Labels,
    user: NDArray[np.int64],
    time: NDArray[np.int64],
    returning: NDArray[np.bool_],
    all_known: Known,
    all_label: Labels,
    all_time: NDArray[np.int64],
    all_returning: NDArray[np.bool_],
    policy: Policy,
    budget: float | Literal["best"],
    threshold: float | None,
    combine: Literal["blend", "replace"],
    seed: int,
) -> Router:
    """Fit everything on validation data, and judge whether asking helps.

    The judgement is cross-fitted: whether a user's rows are routed, and what they get, is decided
    by maps, policy, threshold and best share fitted on other users; the gain is the CRM's loss
    minus the answer's on the rows routed. If it does not exceed zero with 95 % confidence (users
    resampled), nothing is routed. Of the plain and the full blend the one with the lower
    cross-fitted log loss is taken. What the full one gains by history length and popularity alone
    is no merit of the language model, nor is what the mere rate of positives gains in the CRM's
    place: the gain over these must be shown too.

    Args:
        known: The ``n`` validation rows that both models scored ...
        llm_logit: ``(n,)`` ... the language model's logits ...
        label: ``(n,)`` ... their labels ...
        user: ``(n,)`` ... users ...
        time: ``(n,)`` ... times, in any unit ...
        returning: ``(n,)`` ... and whether the user has training rows.
        all_known: All validation rows; they fix the CRM's calibration and the thresholds ...
        all_label: ... with their labels ...
        all_time: ... times ...
        all_returning: ... and whether the user has training rows.
        policy: Whom to ask first.
        budget: Share of samples the language model may see; ``best`` is the one with the lowest
            cross-fitted log loss.
        threshold: Value of asking under ``policy`` above which a sample is routed, in place of a
            budget.
        combine: What a routed sample gets.
        seed: Seed of the bootstrap.
    """
    folds = _folds(label, user)
    fit_blend = _better_blend(folds, label, known, llm_logit)
    rows = _cross_fit(folds, label, known, llm_logit, time, returning, fit_blend, combine)
    crm = fit_logistic(all_label, all_known.crm_logit)
    gain = fit_gain(known.features(crm), rows.expected, rows.saved)
    features = all_known.features(crm)
    past = {name: blocks(value(name, features, gain), all_time, all_returning) for name in POLICIES}
    if threshold is not None:
        share = float((value(policy, features, gain) > threshold).mean())
    else:
        share = _best_share(rows, policy, rows.fold >= 0) if budget == "best" else budget
    routed = {name: rows.needed[name] <= share for name in POLICIES}
    thresholds = {name: threshold_of(share, past[name]) for name in POLICIES}
    thresholds["gain"] = max(thresholds["gain"], 0.0)  # a gain of zero is not worth asking
    if threshold is not None:
        thresholds[policy] = threshold
        routed[policy] = rows.value[policy] > threshold
    elif budget == "best":
        for fold in range(len(folds)):
            here = rows.fold == fold
            share_here = _best_share(rows, policy, (rows.fold >= 0) & ~here)
            for name in POLICIES:
                routed[name][here] = rows.needed[name][here] <= share_here
    return Router(
        policy=policy,
        budget=share,
        limit=share if threshold is None and budget != "best" else 1.0,
        combine=combine,
        crm=crm,
        llm=fit_logistic(label, llm_logit),
        blend=fit_blend(label, known, llm_logit),
        gain=gain,
        thresholds=thresholds,
        shares={name: _share(which) for name, which in routed.items()},
        verdicts={
            name: _judge((rows.saved[which], rows.credit[which]), user[which], seed)
            for name, which in routed.items()
        },
    )


@dataclass(frozen=True)
class _CrossFit:
    """What rows get from fits on other users.

    Args:
        fold: ``(n,)`` the fold a row is held out in; -1 where nothing could be fitted, and then it
            is not routed and gains nothing.
        saved: ``(n,)`` log loss (nats) the answer saves over the CRM.
        credit: ``(n,)`` what it saves over an answer of its kind that needs no language model: the
            full blend of the rest, or the rate of positives.
        expected: ``(n,)`` what the blend expects it to save.
        value: ``(n,)`` value of asking under each policy ...
        needed: ... and the smallest budget under which the row is routed, infinite if none.
    """

    fold: NDArray[np.int64]
    saved: Floats
    credit: Floats
    expected: Floats
    value: dict[str, Floats]
    needed: dict[str, Floats]


def _folds(label: Labels, user: NDArray[np.int64]) -> list[Fold]:
    """Users in up to five parts; those whose rest has labels of one kind only are left out."""
    count = min(FOLDS, len(np.unique(user)))
    parts = GroupKFold(count).split(label, groups=user) if count > 1 else ()
    return [(fit, held) for fit, held in parts if label[fit].min() < label[fit].max()]


def _better_blend(folds: list[Fold], label: Labels, known: Known, llm_logit: Floats) -> FitBlend:
    """The way to blend with the lower cross-fitted log loss; the plain one where they tie."""
    ways: tuple[FitBlend, ...] = (fit_plain, fit_full)
    total = dict.fromkeys(ways, 0.0)
    for fit, held in folds:
        for way in ways:
            p = sigmoid(way(label[fit], known[fit], llm_logit[fit])(known[held], llm_logit[held]))
            total[way] += float(losses(label[held], p).sum())
    return min(ways, key=lambda way: total[way])


def _cross_fit(
    folds: list[Fold],
    label: Labels,
    known: Known,
    llm_logit: Floats,
    time: NDArray[np.int64],
    returning: NDArray[np.bool_],
    fit_blend: FitBlend,
    combine: Literal["blend", "replace"],
) -> _CrossFit:
    """Fit everything on each fold's rows, and say what comes out for the rows held out."""
    n = len(label)
    found = _CrossFit(
        fold=np.full(n, -1),
        saved=np.zeros(n),
        credit=np.zeros(n),
        expected=np.zeros(n),
        value={name: np.full(n, -NOBODY) for name in POLICIES},
        needed={name: np.full(n, np.inf) for name in POLICIES},
    )
    for number, (fit, held) in enumerate(folds):
        crm = fit_logistic(label[fit], known.crm_logit[fit])
        alone = without = sigmoid(crm(known.crm_logit))
        answer = blended = sigmoid(
            fit_blend(label[fit], known[fit], llm_logit[fit])(known, llm_logit)
        )
        if combine == "replace":
            answer = sigmoid(fit_logistic(label[fit], llm_logit[fit])(llm_logit))
            without = np.full(n, label[fit].mean())
        elif fit_blend is fit_full:
            without = sigmoid(fit_full(label[fit], known[fit], None)(known, llm_logit))
        saved = losses(label, alone) - losses(label, answer)
        expected = expected_gain(alone, answer, blended)
        features = known.features(crm)
        gain = fit_gain(features[fit], expected[fit], saved[fit])
        found.fold[held] = number
        found.saved[held], found.expected[held] = saved[held], expected[held]
        found.credit[held] = (losses(label, without) - losses(label, answer))[held]
        for name in POLICIES:
            worth = value(name, features, gain)
            needed = budget_needed(worth[held], blocks(worth[fit], time[fit], returning[fit]))
            found.value[name][held] = worth[held]
            found.needed[name][held] = needed
    found.needed["gain"][found.value["gain"] <= 0] = np.inf
    return found


def _best_share(rows: _CrossFit, policy: Policy, which: NDArray[np.bool_]) -> float:
    """The share at which some rows' cross-fitted log loss is lowest; 0 where asking never helps."""
    needed, saved = rows.needed[policy][which], rows.saved[which]
    totals = [saved[needed <= share].sum() for share in SHARES]
    return float(SHARES[int(np.argmax(totals))])


def _share(routed: NDArray[np.bool_]) -> Share:
    """The count with its exact bound."""
    asked, rows = int(routed.sum()), len(routed)
    bound = float(beta.ppf(CONFIDENCE, asked + 1, rows - asked)) if asked < rows else 1.0
    return Share(asked, rows, bound)


def explain(router: Router) -> str:
    """The verdict of validation in one sentence."""
    verdict, share = router.verdict, router.shares[router.policy]
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
        whom = "most promising" if router.policy == "gain" else "least confident"
        return (
            f"the {whom} {router.budget:.0%} go to the LLM: {measured}; they are "
            f"{share.asked / share.rows:.1%} of validation, and of rows like these with 95 % "
            f"confidence less than {share.bound:.1%}"
        )
    return f"nothing is routed, the CRM answers alone: {measured}, which does not show a gain"


def _judge(gains: tuple[Floats, ...], user: NDArray[np.int64], seed: int) -> Verdict:
    """The verdict on routed rows that gain so much; of several ways to count, on the least."""
    if len(user) < MIN_ROUTED:
        return Verdict(helps=False, routed=len(user), gain=0.0, bound=0.0)
    users, number = np.unique(user, return_inverse=True)
    drawn = np.random.default_rng(seed).integers(0, len(users), (RESAMPLES, len(users)))
    rows = np.bincount(number)[drawn].sum(1)
    bounds = [
        float(np.quantile(np.bincount(number, gain)[drawn].sum(1) / rows, 1 - CONFIDENCE))
        for gain in gains
    ]
    least = int(np.argmin(bounds))
    return Verdict(bounds[least] > WORTH, len(user), float(gains[least].mean()), bounds[least])
