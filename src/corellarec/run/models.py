"""The data and the models of a run, each made or read once."""

from functools import cached_property
from pathlib import Path

from accelerate.utils import set_seed
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from corellarec.base.artifacts import read_manifest
from corellarec.base.device import pick_dtype
from corellarec.crm.batch import CrmReader
from corellarec.crm.build import build_crm
from corellarec.crm.external import external_logits
from corellarec.crm.score import crm_logits
from corellarec.data.log import Log
from corellarec.llm.layout import Layout, build_layout
from corellarec.llm.load import AnswerModel, load_model, load_tokenizer
from corellarec.llm.lora import (
    add_adapter,
    load_adapter,
)
from corellarec.llm.score import LlmScorer
from corellarec.run.workspace import Workspace
from corellarec.train.checkpoint import load_tensors, load_trainable


class Models(Workspace):
    """What a run's steps work with."""

    @cached_property
    def log(self) -> Log:
        """The prepared log."""
        return Log.load(self.directory / "data")

    @cached_property
    def reader(self) -> CrmReader:
        """Builds the CRM's batches."""
        return CrmReader(self.log, self.config.crm.history_length, self.device)

    def new_crm(self) -> nn.Module:
        """A CRM with fresh weights."""
        set_seed(self.config.seed)
        return build_crm(self.config.crm, self.log.features, self.device)

    @property
    def is_external(self) -> bool:
        """Whether the CRM is known by its scores alone."""
        return self.config.crm.model == "external"

    @cached_property
    def external_logits(self) -> Tensor:
        """The external CRM's logit of each row of the log, NaN where it has none."""
        return external_logits(self.config.crm.external, self.log)

    def crm_logits(self, rows: Tensor) -> Tensor:
        """``(n,)`` fp32: the trained CRM's logit of validation or test rows."""
        if self.is_external:
            return self.external_logits[rows]
        return crm_logits(self.trained_crm(), self.reader, self.log.samples(rows))

    def trained_crm(self, stage: int | None = None) -> nn.Module:
        """The CRM as stage 1 or 2 left it, or as it is in the end.

        Stage 1's stands in where stage 2 was left out.
        """
        directory = self.directory / ("stage2" if self.trains(2) and stage != 1 else "stage1")
        if stage is None and self.config.distill.rows:
            directory = self.directory / "distilled"
        crm = self.new_crm()
        load_part(crm, directory, "crm.")
        return crm.eval()

    @cached_property
    def layout(self) -> Layout:
        """How samples become text; it needs the tokenizer alone."""
        name = self.config.llm.model
        return build_layout(self.config.llm, self.log, load_tokenizer(name))

    @cached_property
    def llm_parts(self) -> tuple[AnswerModel, PreTrainedTokenizerBase, Layout]:
        """The language model with a fresh adapter, its tokenizer and its layout."""
        with self.display.waiting("loading the language model"):
            config = self.config.llm
            dtype = pick_dtype(config.dtype, self.device)
            model, tokenizer = load_model(config.model, dtype, self.device)
            set_seed(self.config.seed)
            if self.adapter is None:
                adapted = add_adapter(model, config.lora)
            else:
                self.adapter.check(config, self.log)
                adapted = load_adapter(model, self.adapter.directory)
            answer_model = AnswerModel(adapted, self.layout.answers, config.checkpointing)
            return answer_model, tokenizer, self.layout

    @property
    def llm(self) -> AnswerModel:
        """The language model."""
        return self.llm_parts[0]

    @cached_property
    def scorer(self) -> LlmScorer:
        """Scores with the language model as it is now."""
        model, _, layout = self.llm_parts
        return LlmScorer(model, layout, self.config.llm.tokens_per_batch)

    def trains(self, number: int) -> bool:
        """Whether a stage is not left out."""
        if number > 1 and self.config.llm.adapter:
            return False
        if number == 3:
            return self.config.stage3.rows != 0
        return not self.is_external and (number == 1 or self.config.stage2.rows != 0)

    def load_adapter(self) -> None:
        """Put the last trained adapter into the language model."""
        for number in (3, 2):
            if self.trains(number):
                load_part(self.llm, self.directory / f"stage{number}", "llm.")
                return


def load_part(module: nn.Module, directory: Path, prefix: str) -> None:
    """Put trained weights into a module: those of a step's directory under a prefix.

    Raises:
        ArtifactError: If the directory is missing or damaged, or does not fit the module.
    """
    read_manifest(directory)
    state = load_tensors(directory, "model")
    part = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
    load_trainable(module, part, directory)
