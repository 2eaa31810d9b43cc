"""Fit the router on validation data, and judge whether routing lowers the log loss."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from corellarec.base.bootstrap import resample_blocks
from corellarec.base.calibrate import Fold, fit_logistic, user_folds
from corellarec.base.errors import DataError
from corellarec.base.metrics import Floats, Labels, losses, sigmoid
from corellarec.cascade.blend import Blend, fit_full, fit_plain
from corellarec.cascade.budget import Mask
from corellarec.cascade.policy import POLICIES, Known, Policy, expected_gain, fit_gain, value
from corellarec.cascade.router import (
    MIN_GAIN,
    MIN_ROUTED,
    Combine,
    RoutedShare,
    Router,
    Rule,
    Verdict,
)
from corellarec.cascade.scores import Scores
from corellarec.cascade.threshold import ROUTE_ALL, budget_needed, threshold_of
from corellarec.config.cascade import DEFAULT_BUDGET

RESAMPLES = 1000
CONFIDENCE = 0.95  # of the one-sided bounds of a gain and of a share
SHARES = np.linspace(0, 1, 101)  # among which "best" chooses


@dataclass(frozen=True)
class Population:
    """All ``m`` validation rows; they fix the CRM's calibration and the thresholds.

    Args:
        known: What is known of them before the LLM runs, the CRM's raw logits among it.
        label: ``(m,)`` int8, 0 or 1.
    """

    known: Known
    label: Labels


def fit_router(
    judged: Scores,
    population: Population,
    *,
    policy: Policy,
    combine: Combine,
    seed: int,
    budget: float | Literal["best"] | None = None,
    threshold: float | None = None,
) -> Router:
    """Fit calibrations, blend, policy and threshold, and judge whether routing helps.

    The judgement is cross-fitted: whether a user's rows are routed, and what they get, is decided
    by maps, policy, threshold and best share fitted on other users. The gain is the CRM's loss
    minus the answer's on the rows routed; unless it exceeds zero with 95 % confidence (users
    resampled), no row is routed. Of the plain and the full blend the one with the lower
    cross-fitted log loss is taken. What the full blend gains by history length and popularity
    alone is no merit of the LLM, nor is what the mere rate of positives gains in the CRM's place:
    the gain over these must be significant too.

    Args:
        judged: The validation rows that both models scored.
        population: All validation rows.
        policy: Which rows are routed first.
        combine: What a routed row gets.
        seed: Seed of the bootstrap.
        budget: Share of rows to route, 0 to 1; ``best`` is the one with the lowest cross-fitted
            log loss. The default is 0.1 where no threshold is given.
        threshold: Value of routing (nats) under ``policy`` above which a row is routed, in place
            of a budget.

    Raises:
        DataError: If the labels of the rows judged, or of all, are all alike.
        ValueError: If both a budget and a threshold are given.
    """
    if budget is not None and threshold is not None:
        raise ValueError(f"give a budget ({budget}) or a threshold ({threshold}), not both")
    budget = DEFAULT_BUDGET if budget is None else budget
    check_labels(judged.label, "validation rows that both models scored")
    check_labels(population.label, "validation rows")
    folds = user_folds(judged.label, judged.user)
    fit_blend = _better_blend(folds, judged)
    rows = _cross_fit(folds, judged, fit_blend, combine)
    crm = fit_logistic(population.label, population.known.crm_logit)
    gain = fit_gain(judged.known.features(crm), rows.expected, rows.saved)
    features = population.known.features(crm)
    values = {name: value(name, features, gain) for name in POLICIES}
    if threshold is not None:
        share = float((values[policy] > threshold).mean())
    elif budget == "best":
        share = _best_share(rows, policy, rows.fold >= 0)
    else:
        share = budget
    thresholds = {name: threshold_of(share, values[name]) for name in POLICIES}
    thresholds["gain"] = max(thresholds["gain"], 0.0)  # a row that gains nothing is not routed
    routed: dict[Policy, Mask] = {name: rows.needed[name] <= share for name in POLICIES}
    if threshold is not None:
        thresholds[policy] = threshold
        routed[policy] = rows.value[policy] > threshold
    elif budget == "best":
        for fold in range(len(folds)):
            held = rows.fold == fold
            fold_share = _best_share(rows, policy, (rows.fold >= 0) & ~held)
            for name in POLICIES:
                routed[name][held] = rows.needed[name][held] <= fold_share
    return Router(
        policy=policy,
        budget=share,
        hard=threshold is None and budget != "best",
        combine=combine,
        crm=crm,
        llm=fit_logistic(judged.label, judged.llm_logit),
        blend=fit_blend(judged.label, judged.known, judged.llm_logit),
        gain=gain,
        rules={
            name: Rule(
                thresholds[name],
                _share(mask),
                _judge((rows.saved[mask], rows.credit[mask]), judged.user[mask], seed),
            )
            for name, mask in routed.items()
        },
    )


def check_labels(label: Labels, rows: str) -> None:
    """Refuse labels that nothing can be calibrated on.

    Args:
        label: ``(n,)`` 0 or 1.
        rows: What messages call the rows.

    Raises:
        DataError: If there are none, or all are alike.
    """
    if len(np.unique(label)) < 2:
        found = f"all {len(label)} {rows} have label {label[0]}" if len(label) else f"no {rows}"
        raise DataError(
            f"the router cannot be fitted: {found}, and it needs both labels, 0 and 1: use more "
            "validation rows (cascade.validation_rows, 0 is all; data.split)"
        )


FitBlend = Callable[[Labels, Known, Floats], Blend]


@dataclass(frozen=True)
class _CrossFit:
    """What rows get from fits on other users.

    Args:
        fold: ``(n,)`` the fold a row is held out in; -1 where nothing could be fitted, and then it
            is not routed and gains nothing.
        saved: ``(n,)`` log loss (nats) the answer saves over the CRM.
        credit: ``(n,)`` what it saves over an answer of its kind that needs no LLM: the full blend
            of the rest, or the rate of positives.
        expected: ``(n,)`` what the blend expects it to save.
        value: ``(n,)`` value of routing under each policy ...
        needed: ... and the smallest budget under which the row is routed, infinite if none.
    """

    fold: NDArray[np.int64]
    saved: Floats
    credit: Floats
    expected: Floats
    value: dict[Policy, Floats]
    needed: dict[Policy, Floats]


def _better_blend(folds: list[Fold], judged: Scores) -> FitBlend:
    """The way to blend with the lower cross-fitted log loss; the plain one where they tie."""
    label, known, llm_logit = judged.label, judged.known, judged.llm_logit
    ways: tuple[FitBlend, ...] = (fit_plain, fit_full)
    total = dict.fromkeys(ways, 0.0)
    for fit, held in folds:
        for way in ways:
            p = sigmoid(way(label[fit], known[fit], llm_logit[fit])(known[held], llm_logit[held]))
            total[way] += float(losses(label[held], p).sum())
    return min(ways, key=lambda way: total[way])


def _cross_fit(
    folds: list[Fold], judged: Scores, fit_blend: FitBlend, combine: Combine
) -> _CrossFit:
    """Fit everything on each fold's rows, and apply it to the rows held out."""
    label, known, llm_logit = judged.label, judged.known, judged.llm_logit
    n = len(label)
    rows = _CrossFit(
        fold=np.full(n, -1),
        saved=np.zeros(n),
        credit=np.zeros(n),
        expected=np.zeros(n),
        value={name: np.full(n, ROUTE_ALL) for name in POLICIES},
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
        rows.fold[held] = number
        rows.saved[held], rows.expected[held] = saved[held], expected[held]
        rows.credit[held] = (losses(label, without) - losses(label, answer))[held]
        for name in POLICIES:
            values = value(name, features, gain)
            rows.value[name][held] = values[held]
            rows.needed[name][held] = budget_needed(values[held], values[fit])
    rows.needed["gain"][rows.value["gain"] <= 0] = np.inf
    return rows


def _best_share(rows: _CrossFit, policy: Policy, which: Mask) -> float:
    """The share with the lowest cross-fitted log loss of some rows; 0 where routing never helps."""
    needed, saved = rows.needed[policy][which], rows.saved[which]
    totals = [saved[needed <= share].sum() for share in SHARES]
    best = int(np.argmax(totals))
    routed = int((needed <= SHARES[best]).sum())
    return float(SHARES[best]) if totals[best] > MIN_GAIN * routed else 0.0


def _share(routed: Mask) -> RoutedShare:
    """The share routed, with its exact bound."""
    count, rows = int(routed.sum()), len(routed)
    bound = float(beta.ppf(CONFIDENCE, count + 1, rows - count)) if count < rows else 1.0
    return RoutedShare(count, rows, bound)


def _judge(gains: tuple[Floats, ...], user: NDArray[np.int64], seed: int) -> Verdict:
    """The verdict on routed rows; of several counts of what each gains, the least one decides."""
    if len(user) < MIN_ROUTED:
        return Verdict(helps=False, routed=len(user), gain=0.0, bound=0.0)
    users, number = np.unique(user, return_inverse=True)
    generator = np.random.default_rng(seed)
    rows, sums = np.bincount(number), [np.bincount(number, gain) for gain in gains]
    means = np.empty((len(gains), RESAMPLES))
    for block in resample_blocks(RESAMPLES, len(users)):
        drawn = generator.integers(0, len(users), (block.stop - block.start, len(users)))
        drawn_rows = rows[drawn].sum(1)
        for mean, gain in zip(means, sums, strict=True):
            mean[block] = gain[drawn].sum(1) / drawn_rows
    bounds = [float(np.quantile(mean, 1 - CONFIDENCE)) for mean in means]
    least = int(np.argmin(bounds))
    return Verdict(bounds[least] > MIN_GAIN, len(user), float(gains[least].mean()), bounds[least])
