"""CTRL: a CRM that is aligned with a text encoder by contrast, then tuned and asked alone.

Source: Li et al. 2023, https://arxiv.org/abs/2306.02841
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from corellarec.base.errors import ConfigError
from corellarec.config import Stage1Config, Stage2Config
from corellarec.crm.batch import Reader
from corellarec.crm.score import crm_logits
from corellarec.data.log import Log
from corellarec.llm.layout import Layout
from corellarec.llm.load import AnswerModel
from corellarec.llm.packing import LlmBatch
from corellarec.research.baselines.experiment import Experiment, Trained
from corellarec.run.stages import chunk_rows
from corellarec.run.weights import load_part, new_crm
from corellarec.train.align import crm_layer
from corellarec.train.stages import CrmTask, StageOutput

WIDTH = 128  # of the space both sides are projected into
SUBSPACES = 4  # M, parts of that space; 1 is plain contrast
TEMPERATURE = 0.2

TextBatch = tuple[LlmBatch, Tensor]
"""Sequences, and the log row that each of their answers belongs to."""


def similarity(one: Tensor, other: Tensor, subspaces: int) -> Tensor:
    """``(n, m)`` similarity of ``(n, width)`` and ``(m, width)`` vectors, fine-grained.

    Both are cut into M sub-vectors; each of ``one`` takes its largest cosine with any of
    ``other``, and these are added: ``sum_k max_l cos(one[i, k], other[j, l])``. With M = 1 it is
    the cosine.
    """
    first = normalize(one.unflatten(1, (subspaces, -1)), dim=-1)
    second = normalize(other.unflatten(1, (subspaces, -1)), dim=-1)
    return torch.einsum("ikd,jld->ijkl", first, second).amax(3).sum(2)


def contrastive_loss(text: Tensor, crm: Tensor, subspaces: int, temperature: float) -> Tensor:
    """Symmetric InfoNCE within a batch, a scalar: row i of one side belongs to row i of the other.

    Args:
        text: ``(n, width)`` projected vectors of one side.
        crm: Of the other.
        subspaces: M, which divides the width.
        temperature: What similarities are divided by.
    """
    same = torch.arange(len(text), device=text.device)
    to_crm = similarity(text, crm, subspaces) / temperature
    to_text = similarity(crm, text, subspaces) / temperature
    return (cross_entropy(to_crm, same) + cross_entropy(to_text, same)) / 2


class ContrastiveModel(nn.Module):
    """The contrast of the language model's last hidden state with the CRM's last deep layer.

    A batch is whole windows of a few users, so most negatives of a sample are other rows of the
    same user: they tell items and moments apart rather than users.

    Args:
        llm: The text encoder, read where it would answer.
        crm: The CRM.
        reader: Builds the CRM's batches.
        log: The prepared log.

    Raises:
        ConfigError: If the CRM names no layer.
    """

    def __init__(self, llm: AnswerModel, crm: nn.Module, reader: Reader, log: Log) -> None:
        super().__init__()
        widths: dict[str, int] = crm.layer_widths  # pyright: ignore[reportAssignmentType]
        self.layer = crm_layer("last", widths)
        if self.layer not in widths:
            raise ConfigError("ctrl aligns a layer of the CRM, and crm.model names none")
        self.llm, self.crm, self.reader, self.log = llm, crm, reader, log
        self.text_projection = _projection(llm.width)
        self.crm_projection = _projection(widths[self.layer])

    def forward(self, batch: TextBatch) -> StageOutput:
        """The contrastive loss of a batch's answers."""
        sequences, rows = batch
        text = self.llm(sequences, ["last"]).layers["last"]
        crm = self.crm(self.reader(self.log.samples(rows))).layers[self.layer]
        loss = contrastive_loss(
            self.text_projection(text),
            self.crm_projection(crm.float()),
            SUBSPACES,
            TEMPERATURE,
        )
        return StageOutput(loss, {})


def _projection(width: int) -> nn.Module:
    """Normalised first: hidden states of language models have a few huge components."""
    return nn.Sequential(nn.LayerNorm(width, elementwise_affine=False), nn.Linear(width, WIDTH))


class AlignmentTask:
    """CTRL's first stage.

    Args:
        model: The loss.
        layout: How samples become text.
        rows, validation: Rows of the training and of the validation split.
        settings: Stage 2's, for batches and the language model's learning rate.
        crm_settings: Stage 1's, for the CRM's learning rate; it starts fresh.
        seed: Seed of the order of batches.
    """

    def __init__(
        self,
        model: ContrastiveModel,
        layout: Layout,
        rows: Tensor,
        validation: Tensor,
        settings: Stage2Config,
        crm_settings: Stage1Config,
        seed: int,
    ) -> None:
        self.model, self.layout, self.seed = model, layout, seed
        self.tokens_per_batch = settings.tokens_per_batch
        self.packed, self.validation = self._read(rows), self._read(validation)
        text = [p for p in model.llm.parameters() if p.requires_grad]
        others = [
            *model.crm.parameters(),
            *model.text_projection.parameters(),
            *model.crm_projection.parameters(),
        ]
        self.parameter_groups: list[dict[str, Any]] = [
            {"params": text, "lr": settings.learning_rate},
            {"params": others, "lr": crm_settings.learning_rate},
        ]
        self.selection = {"": "contrastive_loss"}

    def _read(self, rows: Tensor) -> list[TextBatch]:
        """Batches of sequences in random order."""
        sequences = self.layout.encode(self.model.log.samples(rows))
        order = np.random.default_rng(self.seed).permutation(len(sequences))
        shuffled = [sequences[i] for i in order]
        batches = self.model.llm.batches(shuffled, self.tokens_per_batch)
        return [(batch, rows[batch.sample]) for batch in batches]

    def batches(self, epoch: int) -> Sequence[list[TextBatch]]:
        """The batches in random order, each a single entry: samples are contrasted within it."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.packed))
        return [[self.packed[i]] for i in order]

    def size(self, part: Sequence[TextBatch]) -> int:
        """Number of rows."""
        return sum(len(rows) for _, rows in part)

    def read(self, part: Sequence[TextBatch]) -> TextBatch:
        """The batch."""
        return part[0]

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The contrastive loss, averaged over validation rows."""
        total, count = 0.0, 0
        for batch in self.validation:
            total += float(self.model(batch).loss) * len(batch[1])
            count += len(batch[1])
        return {"contrastive_loss": total / max(1, count)}


def ctrl(experiment: Experiment) -> Trained:
    """Align a fresh CRM with the language model, tune it on all training rows, and ask it alone.

    Raises:
        ConfigError: If the CRM cannot be aligned.
    """
    run, config = experiment.workspace, experiment.workspace.config
    if run.is_external:
        raise ConfigError("ctrl aligns a CRM that is trained here, and crm.model is 'external'")
    rows = experiment.drawn("train", experiment.rows, chunk_rows(run))

    def align() -> AlignmentTask:
        validation = experiment.drawn("validation", config.stage2.validation_rows, chunk_rows(run))
        crm, llm, layout = new_crm(run), run.llm, run.layout
        set_seed(config.seed)
        model = ContrastiveModel(llm, crm, run.reader, run.log).to(run.device)
        return AlignmentTask(
            model, layout, rows, validation, config.stage2, config.stage1, config.seed
        )

    aligned = experiment.train("aligned", "LLM and CRM by contrast", align, config.stage2)
    tuned = experiment.train("tuned", "the CRM alone", lambda: tuning(experiment), config.stage1)
    crm = new_crm(run)
    load_part(crm, experiment.directory / "tuned", experiment.key("tuned"), "crm.")
    return Trained(
        lambda samples, answered: crm_logits(crm, run.reader, samples),
        f"{config.crm.model}, aligned with {config.llm.model}",
        len(rows),
        aligned.seconds + tuned.seconds,
        tuned.best["crm."],
    )


def tuning(experiment: Experiment) -> CrmTask:
    """CTRL's second stage: supervised, from the aligned weights."""
    run = experiment.workspace
    crm = new_crm(run)
    load_part(crm, experiment.directory / "aligned", experiment.key("aligned"), "crm.")
    return CrmTask(crm, run.reader, run.log, run.config.stage1, run.config.seed)
