"""A cascade's two models: the CRM at hand, the language model loaded when a row first needs it."""

import threading
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from corellarec.base.device import pick_dtype
from corellarec.base.metrics import Floats
from corellarec.cascade.store import Recipe
from corellarec.crm.batch import Reader
from corellarec.crm.score import crm_logits
from corellarec.data.log import Log, Samples
from corellarec.llm.layout import build_layout
from corellarec.llm.load import AnswerModel, load_model, load_tokenizer
from corellarec.llm.lora import load_adapter
from corellarec.llm.remote import RemoteScorer
from corellarec.llm.score import LlmScorer, Scorer

MakeScorer = Callable[[Log], Scorer]


class Models:
    """Both models of a cascade; each computes for one caller at a time.

    Args:
        crm: The conventional model, in evaluation mode; None where it is external.
        load_llm: Loads the language model; returns what makes its scorer for a log.
        device: Where the CRM runs.
    """

    def __init__(
        self, crm: nn.Module | None, load_llm: Callable[[], MakeScorer], device: torch.device
    ) -> None:
        self.crm, self.load_llm, self.device = crm, load_llm, device
        self._make_scorer: MakeScorer | None = None
        self._scorer: tuple[Log, Scorer] | None = None
        # The CRM's reader finds distinct items in a buffer of its own.
        self._crm_lock, self._llm_lock = threading.Lock(), threading.Lock()

    def crm_logits(self, reader: Reader, samples: Samples) -> Floats:
        """``(n,)`` raw logits of the CRM."""
        assert self.crm is not None
        with self._crm_lock:
            return crm_logits(self.crm, reader, samples).double().numpy()

    def llm_logits(
        self,
        log: Log,
        samples: Samples,
        progress: Callable[[int], None] = lambda answered: None,
    ) -> Floats:
        """``(n,)`` raw logits of the language model.

        Raises:
            ModelError: If it cannot be loaded.
        """
        with self._llm_lock:
            if self._make_scorer is None:
                self._make_scorer = self.load_llm()
            if self._scorer is None or self._scorer[0] is not log:
                self._scorer = log, self._make_scorer(log)
            return self._scorer[1].logits(samples, progress).double().numpy()


def load_local(
    recipe: Recipe, log: Log, adapter: Path, device: torch.device, llm: str | None
) -> MakeScorer:
    """The language model of a recipe, in this process.

    Args:
        recipe: Names a model, which is not fetched unless it is a known one.
        log: The cascade's.
        adapter: Directory of the adapter.
        device: Where the model goes.
        llm: The model that the caller names, which may be fetched.
    """
    config = recipe.llm
    model, tokenizer = load_model(
        llm or config.model, pick_dtype(config.dtype, device), device, fetch=llm is not None
    )
    layout = build_layout(config, log, tokenizer, recipe.template)
    answers = AnswerModel(load_adapter(model, adapter), layout.answers)

    def make(log: Log) -> Scorer:
        layout = build_layout(config, log, tokenizer, recipe.template)
        return LlmScorer(answers, layout, config.tokens_per_batch)

    return make


def connect(
    recipe: Recipe, url: str, model: str, cache_salt: str | None, llm: str | None
) -> MakeScorer:
    """The language model of a recipe, on a vLLM server; its tokenizer here, as in load_local."""
    tokenizer = load_tokenizer(llm or recipe.llm.model, fetch=llm is not None)

    def make(log: Log) -> Scorer:
        layout = build_layout(recipe.llm, log, tokenizer, recipe.template)
        return RemoteScorer(layout, url, model, cache_salt=cache_salt)

    return make
