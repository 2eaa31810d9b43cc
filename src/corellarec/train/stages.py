"""The three stages: the CRM alone, both with their alignment, the language model alone.

Source: Xi et al. 2024, https://arxiv.org/abs/2403.16378
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from corellarec.base import metrics
from corellarec.base.calibrate import fit_logistic
from corellarec.base.errors import ConfigError
from corellarec.config import LlmStageConfig, Stage1Config, Stage2Config
from corellarec.crm.batch import CrmBatch, Reader
from corellarec.crm.score import crm_logits
from corellarec.crm.windows import StreamBatch
from corellarec.data.levels import FIRST
from corellarec.data.log import Log
from corellarec.data.negatives import Redraw
from corellarec.llm.load import AnswerModel, LlmOutput
from corellarec.llm.packing import LlmBatch, families
from corellarec.llm.score import LlmScorer
from corellarec.llm.sequence import TokenSequence
from corellarec.train.align import Alignment


class StageOutput(NamedTuple):
    """The loss of a batch and its named parts, detached, for the log."""

    loss: Tensor
    parts: dict[str, Tensor]


def draw_rows(log: Log, split: str, chunk: int, seed: int) -> list[Tensor]:
    """A split's rows in random order of chunks, each up to ``chunk`` successive rows of one user.

    A chunk costs one stream window; the same number of rows drawn one by one would cost a
    history each. Returns int64 row numbers.
    """
    rows = log.rows_of(split)
    user = log.user[rows]
    same = user[1:] == user[:-1]
    starts = torch.cat([torch.zeros(1, dtype=torch.long), (~same).nonzero().squeeze(1) + 1])
    sizes = torch.diff(torch.cat([starts, torch.tensor([len(rows)])]))
    chunks = [
        part
        for start, size in zip(starts.tolist(), sizes.tolist(), strict=True)
        for part in rows[start : start + size].split(chunk)
    ]
    order = np.random.default_rng(seed).permutation(len(chunks))
    return [chunks[i] for i in order]


def least_confident(chunks: list[Tensor], logit: Tensor) -> list[Tensor]:
    """Chunks of rows, those first whose rows a model is least confident about on average.

    Args:
        chunks: Row numbers.
        logit: ``(rows of the log,)`` the model's logits.
    """
    doubt = torch.from_numpy(metrics.entropy(metrics.sigmoid(logit.double().numpy())))
    mean = torch.tensor([float(doubt[rows].mean()) for rows in chunks])
    return [chunks[i] for i in mean.argsort(descending=True, stable=True)]


def take(chunks: list[Tensor], count: int) -> tuple[Tensor, list[Tensor]]:
    """The first chunks that hold ``count`` rows, ascending, cut to the count; and the rest."""
    taken, total = 0, 0
    while taken < len(chunks) and total < count:
        total += len(chunks[taken])
        taken += 1
    rows = torch.cat([*chunks[:taken], torch.zeros(0, dtype=torch.long)])[:count]
    return rows.sort().values, chunks[taken:]


def quality(prefix: str, label: Tensor, logit: Tensor) -> dict[str, float]:
    """Log loss and AUC under names with a prefix.

    Raises:
        ConfigError: If a logit is not finite: training has diverged.
    """
    if not logit.isfinite().all():
        raise ConfigError(
            f"training has diverged: the {prefix.upper()}'s answers are no numbers any more: lower "
            "the learning_rate of its stage, and the weights of the losses"
        )
    p = metrics.sigmoid(logit.double().numpy())
    return {
        f"{prefix}_log_loss": metrics.log_loss(label.numpy(), p),
        f"{prefix}_auc": metrics.auc(label.numpy(), p),
    }


class CrmExamples(NamedTuple):
    """What the CRM reads in stage 1, and what it is trained towards.

    Args:
        inputs: What the CRM takes.
        target: ``(n,)`` floats in [0, 1], the labels or what stands in their place.
        weight: ``(n,)`` floats, where rows have weights.
        level: ``(n,)`` each row's rating as a level, see :mod:`corellarec.data.levels`.
    """

    inputs: CrmBatch | StreamBatch
    target: Tensor
    weight: Tensor | None
    level: Tensor


class CrmStageModel(nn.Module):
    """The loss of the CRM on a batch.

    Args:
        crm: The model.
        rating_weight: Weight of the loss of its answers about ratings, where it has them.
    """

    def __init__(self, crm: nn.Module, rating_weight: float) -> None:
        super().__init__()
        self.crm, self.rating_weight = crm, rating_weight

    def forward(self, examples: CrmExamples) -> StageOutput:
        """Binary cross-entropy of the logit, and of the ratings that are known."""
        weight = examples.weight
        out = self.crm(examples.inputs)
        loss = binary_cross_entropy_with_logits(out.logit, examples.target, weight)
        if out.ratings is None:
            return StageOutput(loss, {})
        level = examples.level.unsqueeze(1)
        lower = torch.arange(FIRST, FIRST + out.ratings.shape[1], device=level.device)
        known = (level >= FIRST).float()
        if weight is not None:
            known = known * weight.unsqueeze(1)
        above = (level > lower).float()
        rating_loss = binary_cross_entropy_with_logits(out.ratings, above, known)
        return StageOutput(
            loss + self.rating_weight * rating_loss,
            {"label_loss": loss.detach(), "rating_loss": rating_loss.detach()},
        )


class CrmTask:
    """Stage 1: the CRM on all training rows.

    Args:
        crm: The model.
        reader: Builds its batches.
        log: The prepared log.
        config: The stage's settings.
        seed: Seed of the order of rows.
        target: ``(rows of the log,)`` what to train towards in place of the labels.
    """

    def __init__(
        self,
        crm: nn.Module,
        reader: Reader,
        log: Log,
        config: Stage1Config,
        seed: int,
        target: Tensor | None = None,
    ) -> None:
        self.model = CrmStageModel(crm, config.rating_weight)
        self.parameter_groups = [{"params": list(crm.parameters()), "lr": config.learning_rate}]
        self.selection = {"crm.": "crm_log_loss"}
        self.reader, self.log, self.config, self.seed = reader, log, config, seed
        self.rows, self.target = log.rows_of("train"), target
        self.redraw, self.drawn = Redraw(log), log
        self.validation = log.rows_of("validation")

    def batches(self, epoch: int) -> Sequence[Tensor]:
        """Batches of randomly ordered training rows: their numbers in the log.

        From now on :meth:`read` reads this epoch's negatives, which are new in a log without.
        With a ``target``, which belongs to the rows as they are, they are those of the log.
        """
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        samples = self.log.samples(self.rows)
        parts = self.reader.parts(samples, self.config.batch_size, generator)
        self.drawn = self.redraw(self.seed, epoch) if self.target is None else self.log
        return [self.rows[part] for part in parts]

    def size(self, part: Tensor) -> int:
        """Number of rows."""
        return len(part)

    def read(self, part: Tensor) -> CrmExamples:
        """These rows of the log."""
        log, device = self.drawn, self.reader.device
        target = log.labels(part) if self.target is None else self.target[part]
        weight = log.weight[part].to(device) if log.weight is not None else None
        inputs = self.reader(log.samples(part))
        return CrmExamples(inputs, target.float().to(device), weight, log.level[part].to(device))

    def validate(self) -> dict[str, float]:
        """Log loss and AUC on all validation rows."""
        logit = crm_logits(self.model.crm, self.reader, self.log.samples(self.validation))
        return quality("crm", self.log.labels(self.validation), logit)


def rating_loss(out: LlmOutput, level: Tensor, weight: Tensor | None) -> Tensor:
    """Cross-entropy of the language model's answers where they are ratings.

    Args:
        out: The language model's output.
        level: ``(answers,)`` each row's rating as a level; a label alone adds nothing.
        weight: ``(answers,)`` floats, where rows have weights.
    """
    known = (level >= FIRST).float()
    if weight is not None:
        known = known * weight
    answer = (level.long() - FIRST).clamp(min=0)
    return (cross_entropy(out.answers, answer, reduction="none") * known).mean()


class LlmStageModel(nn.Module):
    """The losses of the language model, and, where a CRM is given, of the CRM and the alignment.

    Args:
        llm: The language model.
        log: The prepared log.
        rows: The training rows that batches' ``sample`` counts in.
        rating_weight: Weight of the loss of ratings, where the answers are ratings.
        crm, reader, alignment, config: Stage 2's further parts; None in stage 3.
    """

    def __init__(
        self,
        llm: AnswerModel,
        log: Log,
        rows: Tensor,
        rating_weight: float = 0.0,
        crm: nn.Module | None = None,
        reader: Reader | None = None,
        alignment: Alignment | None = None,
        config: Stage2Config | None = None,
    ) -> None:
        super().__init__()
        self.llm, self.crm, self.alignment = llm, crm, alignment
        self.log, self.rows, self.reader, self.config = log, rows, reader, config
        self.rating_weight = rating_weight if len(llm.answers) > 2 else 0.0

    def forward(self, batch: LlmBatch) -> StageOutput:
        """``alpha * L_llm + beta * L_crm + gamma * L_cal`` over the batch's answers."""
        device = next(self.llm.parameters()).device
        layers = [llm_name for llm_name, _ in self.alignment.pairs] if self.alignment else []
        out = self.llm(batch, layers)
        rows = self.rows[batch.sample]
        label = self.log.labels(rows).float().to(device)
        weight = self.log.weight[rows].to(device) if self.log.weight is not None else None
        llm_loss = binary_cross_entropy_with_logits(out.logit, label, weight)
        if self.rating_weight:
            level = self.log.level[rows].to(device)
            llm_loss = llm_loss + self.rating_weight * rating_loss(out, level, weight)
        if self.crm is None or self.alignment is None or self.config is None:
            return StageOutput(llm_loss, {})
        assert self.reader is not None
        crm_out = self.crm(self.reader(self.log.samples(rows)))
        crm_loss = binary_cross_entropy_with_logits(crm_out.logit, label, weight)
        align_loss = self.alignment(out.layers, crm_out.layers)
        loss = (
            self.config.llm_weight * llm_loss
            + self.config.crm_weight * crm_loss
            + self.config.align_weight * align_loss
        )
        return StageOutput(
            loss,
            {
                "llm_loss": llm_loss.detach(),
                "crm_loss": crm_loss.detach(),
                "align_loss": align_loss.detach(),
            },
        )


class LlmTask:
    """Stages 2 and 3: the language model on a subset, in stage 2 with the CRM beside it.

    Args:
        model: The losses.
        scorer: Validates the language model, and knows the layout.
        config: The stage's settings.
        validation: Validation rows the language model scores.
        seed: Seed of the order of batches.
    """

    def __init__(
        self,
        model: LlmStageModel,
        scorer: LlmScorer,
        config: LlmStageConfig,
        validation: Tensor,
        seed: int,
    ) -> None:
        self.model, self.scorer, self.config = model, scorer, config
        self.validation, self.seed = validation, seed
        together = families(scorer.layout.encode(model.log.samples(model.rows)))
        order = np.random.default_rng(seed).permutation(len(together))
        shuffled = [sequence for i in order for sequence in together[i]]
        self.groups = model.llm.groups(shuffled, config.tokens_per_batch)
        trainable = [p for p in model.llm.parameters() if p.requires_grad]
        self.parameter_groups = [{"params": trainable, "lr": config.learning_rate}]
        self.selection = {"llm.": "calibrated_llm_log_loss"}
        if model.crm is not None and model.alignment is not None:
            assert isinstance(config, Stage2Config)
            others = [*model.crm.parameters(), *model.alignment.parameters()]
            self.parameter_groups.append({"params": others, "lr": config.crm_learning_rate})
            self.selection |= {"crm.": "crm_log_loss", "alignment.": "calibrated_llm_log_loss"}

    def batches(self, epoch: int) -> Sequence[list[TokenSequence]]:
        """The batches in random order."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.groups))
        return [self.groups[i] for i in order]

    def size(self, part: Sequence[TokenSequence]) -> int:
        """Number of answers."""
        return sum(len(one.samples) for one in part)

    def read(self, part: Sequence[TokenSequence]) -> LlmBatch:
        """The sequences side by side."""
        return self.model.llm.batch(part)

    def validate(self) -> dict[str, float]:
        """Log loss and AUC of the language model, and in stage 2 of the CRM on all rows.

        The language model is selected by the log loss of its calibrated answer: the cascade
        calibrates it, and tuning shifts the rate of yes while it learns preferences.
        """
        log, measured = self.model.log, {}
        if self.model.crm is not None and self.model.reader is not None:
            rows = log.rows_of("validation")
            logit = crm_logits(self.model.crm, self.model.reader, log.samples(rows))
            measured = quality("crm", log.labels(rows), logit)
        label = log.labels(self.validation)
        logit = self.scorer.logits(log.samples(self.validation))
        measured |= quality("llm", label, logit)
        calibrated = logit.double().numpy()
        if label.min() < label.max():
            calibrated = fit_logistic(label.numpy(), calibrated)(calibrated)
        loss = metrics.log_loss(label.numpy(), metrics.sigmoid(calibrated))
        return measured | {"calibrated_llm_log_loss": loss}
