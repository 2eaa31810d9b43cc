"""The parts of an evaluation's result: frozen dataclasses.

A number that cannot be estimated is NaN here and ``null`` in JSON.
"""

from dataclasses import dataclass
from typing import Annotated

from pydantic import BeforeValidator

Number = Annotated[float, BeforeValidator(lambda value: float("nan") if value is None else value)]


@dataclass(frozen=True)
class Figure:
    """A metric, or a difference of two, with its 95 % interval.

    Args:
        value: Mean over seeds.
        low: Lower end of the interval, users resampled; NaN where fewer than two users are.
        high: Upper end.
        smallest: Smallest value of a single seed.
        largest: Largest.
    """

    value: Number
    low: Number
    high: Number
    smallest: Number
    largest: Number


@dataclass(frozen=True)
class PredictorRow:
    """A predictor in the main table.

    Args:
        kind: ``yardstick``, ``crm``, ``baseline``, ``llm``, ``cascade`` or ``control``.
        key: Identifies it within the table.
        name: In words.
        rows: Test rows that it scored.
        seeds: Seeds it was trained with.
        llm_share: Share of the rows that an LLM answers, 0 to 1.
        ms: Milliseconds for 1,000 rows, where known.
        tokens: Tokens that an LLM reads for 1,000 rows, where known.
        metrics: By name of ``METRICS``; log loss in nats.
        over_reference: The same, minus the reference's on the same rows and users.
    """

    kind: str
    key: str
    name: str
    rows: int
    seeds: int
    llm_share: float
    ms: float | None
    tokens: float | None
    metrics: dict[str, Figure]
    over_reference: dict[str, Figure]


@dataclass(frozen=True)
class Compared:
    """AUC and log loss (nats) of a predictor, and their differences from a reference's."""

    metrics: dict[str, Figure]
    over_reference: dict[str, Figure]


@dataclass(frozen=True)
class Group:
    """Some of the test rows.

    Args:
        name: In words.
        rows: How many.
        users: Of so many users.
        positives: Share of rows with label 1.
        predictors: By name, the CRM first, which is the reference; empty in groups too small.
    """

    name: str
    rows: int
    users: int
    positives: float
    predictors: dict[str, Compared]


@dataclass(frozen=True)
class Segment:
    """One way to group the test rows."""

    title: str
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class PolicyCurve:
    """A policy's quality at every budget.

    Args:
        auc: At each budget.
        log_loss: At each budget, in nats.
        area: Mean over budgets of each metric minus that of routing at random.
    """

    auc: tuple[Number, ...]
    log_loss: tuple[Number, ...]
    area: dict[str, Number]


@dataclass(frozen=True)
class Curves:
    """Quality against the share of rows that the LLM answers.

    Args:
        budget: The shares, 0 to 1.
        configured: The router's budget.
        policies: ``entropy``, ``gain``, ``random`` and ``oracle``, which knows the labels.
    """

    budget: tuple[float, ...]
    configured: float
    policies: dict[str, PolicyCurve]


@dataclass(frozen=True)
class BudgetPoint:
    """Both policies with exactly the same share of rows routed; figures by metric.

    Args:
        budget: The share, 0 to 1.
        entropy: The most uncertain rows routed.
        gain: The rows of the highest expected gain routed.
        gain_over_entropy: Paired difference.
        gain_over_crm: Paired difference from the CRM alone.
    """

    budget: float
    entropy: dict[str, Figure]
    gain: dict[str, Figure]
    gain_over_entropy: dict[str, Figure]
    gain_over_crm: dict[str, Figure]


@dataclass(frozen=True)
class ThresholdRow:
    """A policy's threshold on validation and on the test rows.

    Args:
        seed: Of the run.
        policy: ``entropy`` or ``gain``.
        threshold: Value of routing above which a row is routed.
        validation_share: Share of validation rows routed.
        validation_bound: 95 % upper bound of that share.
        validation_gain: Nats that a routed validation row gains.
        validation_gain_bound: 95 % lower bound of that gain.
        helps: Whether that gain is significant.
        above: Share of test rows above the threshold.
        routed: Share of test rows routed: no more than a set budget.
        gain: Nats that a routed test row gains; NaN where none is routed.
    """

    seed: int
    policy: str
    threshold: float
    validation_share: float
    validation_bound: float
    validation_gain: Number
    validation_gain_bound: Number
    helps: bool
    above: float
    routed: float
    gain: Number


@dataclass(frozen=True)
class ReliabilityBin:
    """Rows of similar predictions: mean probability, observed rate of positives, and count."""

    p: float
    rate: float
    rows: int


@dataclass(frozen=True)
class RouterSummary:
    """The router: its policy, what a routed row gets, its budget, and what validation shows."""

    policy: str
    combine: str
    budget: float
    helps: bool
    explanation: str


@dataclass(frozen=True)
class Costs:
    """What a score costs.

    Args:
        crm_ms: Milliseconds of the CRM for a row; None where it is external.
        llm_ms: Milliseconds of the LLM for a row.
        llm_tokens: Tokens the LLM reads for a row, as the test rows were scored.
        layout_tokens: Tokens for a row that is scored alone, by layout.
    """

    crm_ms: float | None
    llm_ms: float
    llm_tokens: float
    layout_tokens: dict[str, float]


@dataclass(frozen=True)
class TrainingCurve:
    """A training stage.

    Args:
        step: Steps taken.
        seconds: Seconds of training.
        best: Best validation value of each part.
        best_step: The step it was reached at.
        history: Records of validation: ``step`` and metrics such as ``llm_log_loss``.
    """

    step: int
    seconds: float
    best: dict[str, Number]
    best_step: dict[str, int]
    history: tuple[dict[str, Number], ...]


@dataclass(frozen=True)
class Distillation:
    """How a network of the CRM was taught by the LLM.

    Args:
        network: Its name.
        weight: The weight of the LLM's answers with the lowest log loss; 0 is the network before.
        validation_log_loss: Nats, by weight.
    """

    network: str
    weight: float
    validation_log_loss: dict[str, float]


@dataclass(frozen=True)
class Split:
    """A split of the log; times in ISO format, cold rows are of users or items not in training."""

    rows: int
    positives: int
    cold_user_rows: int
    cold_item_rows: int
    first: str
    last: str


@dataclass(frozen=True)
class DataFacts:
    """The log: its name, what it holds, its splits by name, and how its negatives were drawn."""

    name: str
    rows: int
    users: int
    items: int
    positives: int
    splits: dict[str, Split]
    negatives: str = ""


@dataclass(frozen=True)
class Network:
    """One network of a CRM that is several.

    Args:
        name: Its kind.
        weight: Of its logit in the CRM's; 0 is one that is not computed.
        alone: Validation log loss (nats) of the network alone, calibrated.
        without: Validation log loss of the blend of all others.
        ms: Milliseconds of the network for a row.
    """

    name: str
    weight: float
    alone: float
    without: float
    ms: float


# Of a study alone.


@dataclass(frozen=True)
class BesideRow:
    """The same LLM beside a CRM.

    Args:
        name: The CRM.
        llm_share: Share of test rows that the deployed cascade routes.
        crm: AUC and log loss of the CRM alone, calibrated.
        cascade: The cascade as deployed, against the CRM.
        budget: Exactly a tenth of the rows routed, against the CRM.
        every_row: Every row blended, against the CRM.
    """

    name: str
    llm_share: float
    crm: dict[str, Figure]
    cascade: Compared
    budget: Compared
    every_row: Compared


@dataclass(frozen=True)
class NoHarm:
    """A deployed cascade's log loss (nats) over its own calibrated CRM's.

    Args:
        name: The cascade.
        log_loss_over_crm: Paired difference.
        harm: Whether it is above zero beyond its interval.
    """

    name: str
    log_loss_over_crm: Figure
    harm: bool


@dataclass(frozen=True)
class Boundary:
    """How far apart both models decide, by raw probabilities.

    Args:
        disagree: Share of rows on which they fall on different sides of one half.
        disagree_near: The same where the CRM is near one half; NaN where it never is.
        shift: The LLM's mean probability minus the CRM's.
        correlation: Of their logits.
        crm_calibration_error: Calibration error of the CRM.
        llm_calibration_error: Of the LLM.
    """

    disagree: float
    disagree_near: Number
    shift: float
    correlation: Number
    crm_calibration_error: float
    llm_calibration_error: float


@dataclass(frozen=True)
class AblationRow:
    """The method with a part left out or changed; predictors are compared with the full method's.

    Args:
        name: The variant.
        llm_share: Share of test rows routed.
        predictors: ``crm_calibrated``, ``llm_calibrated``, ``cascade`` and ``blend_all``.
        boundary: How far apart both models decide.
    """

    name: str
    llm_share: float
    predictors: dict[str, Compared]
    boundary: Boundary


@dataclass(frozen=True)
class CellFacts:
    """What was run, and seconds of the last call that trained or scored in it."""

    kind: str
    name: str
    seed: int
    seconds: float | None
