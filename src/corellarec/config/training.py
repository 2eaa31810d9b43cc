"""Settings of the three training stages and of distillation."""

from typing import Annotated, Literal

from pydantic import Field

from corellarec.config.section import (
    Count,
    Positive,
    Range,
    Rate,
    Scale,
    Section,
    Share,
    Tokens,
    Weight,
)


class StageConfig(Section):
    """What the three training stages share."""

    learning_rate: Rate = 1e-3
    """Peak learning rate: linear warm-up, then cosine to a tenth of it."""
    warmup: Share = 0.1
    """Share of the steps spent warming up."""
    weight_decay: Weight = 0.0
    """Decoupled weight decay."""
    accumulate: Positive = 1
    """Batches whose gradients, averaged, make one step."""
    clip_norm: Scale = 1.0
    """Largest norm of the gradient."""
    epochs: Count = 1
    """Passes over the stage's rows at most; 0 leaves the weights as they are drawn."""
    evaluations: Positive = 1
    """Validations per epoch; the best weights are kept."""
    patience: Positive = 3
    """Validations without progress before the stage ends early."""


class Stage1Config(StageConfig):
    """Stage 1: the CRM alone, on all training rows."""

    batch_size: Positive = 1024
    """Samples in one step."""
    learning_rate: Rate = 2e-3
    weight_decay: Weight = 1e-2
    epochs: Count = 15
    rating_weight: Weight = 1.0
    """Weight of a further loss in a log with ratings: the log loss of the network's answers to
    whether a row's rating is above each level but the highest."""


class LlmStageConfig(StageConfig):
    """What stages 2 and 3 share."""

    rows: Count | Literal["all"] = 4000
    """Training rows, drawn as whole stream windows; ``all`` takes every one, 0 leaves the stage
    out."""
    subset: Literal["random", "uncertain"] = "random"
    """Which windows are drawn first: any (the paper), or those where the CRM is least confident."""
    validation_rows: Annotated[int, Range(ge=10, le=1_000_000_000)] = 1000
    """Validation rows scored by the language model at each validation."""
    tokens_per_batch: Tokens = 1536
    """Tokens in one pass of training."""
    rating_weight: Weight = 1.0
    """Weight of a further loss where the template asks for ratings: the cross-entropy of the
    rating."""


class Stage2Config(LlmStageConfig):
    """Stage 2: both models and their alignment, on a random subset."""

    llm_weight: Weight = 1.0
    """alpha, the weight of the language model's loss."""
    crm_weight: Weight = 1.0
    """beta, the weight of the CRM's loss."""
    align_weight: Weight = 0.1
    """gamma, the weight of the alignment loss."""
    crm_learning_rate: Rate = 1e-4
    """Peak learning rate of the CRM and the projections."""


class Stage3Config(LlmStageConfig):
    """Stage 3: the language model alone, on another random subset."""


class DistillConfig(Section):
    """What the language model teaches the CRM, once all stages are done."""

    rows: Count | Literal["all"] = 0
    """Training rows that the language model answers for the CRM to learn from, drawn as whole
    stream windows from those that no stage tuned it on, if there are such; 0 leaves it out."""
    weights: Annotated[tuple[Annotated[float, Range(gt=0.0, le=1.0)], ...], Field(min_length=1)] = (
        0.3,
        0.6,
    )
    """Shares of the language model's answer in the target, where the gate is fully open. A CRM is
    trained with each; the best on validation stays, or the one before if none is better."""
