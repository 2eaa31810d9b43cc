"""A cascade's two models: the CRM at hand, the language model loaded when a row first needs it."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from corellarec.base.device import pick_dtype
from corellarec.base.errors import ConfigError
from corellarec.base.metrics import Floats
from corellarec.cascade.budget import Mask
from corellarec.cascade.store import Recipe
from corellarec.crm.batch import Reader
from corellarec.crm.score import crm_logits
from corellarec.data.log import Log, Samples
from corellarec.llm.layout import build_layout
from corellarec.llm.load import AnswerModel, load_model, load_tokenizer
from corellarec.llm.lora import load_adapter
from corellarec.llm.remote import RemoteScorer, UnansweredError
from corellarec.llm.score import LlmScorer, Scorer
from corellarec.llm.sequence import tokens_read

MakeScorer = Callable[[Log], Scorer]
OnServerError = Literal["crm", "fail"]


class Models:
    """Both models of a cascade; each computes for one caller at a time.

    Args:
        crm: The conventional model, in evaluation mode; None where it is external.
        load_llm: Loads the language model; returns what makes its scorer for a log.
        device: Where the CRM runs.
        on_server_error: Whether a failing server leaves rows to the CRM, or raises.

    Attributes:
        unanswered: Rows, so far, that a failing server left to the CRM.
        server_error: Why, the last time; None where there are none.

    Raises:
        ConfigError: If ``on_server_error`` is neither ``crm`` nor ``fail``.
    """

    def __init__(
        self,
        crm: nn.Module | None,
        load_llm: Callable[[], MakeScorer],
        device: torch.device,
        on_server_error: OnServerError = "fail",
    ) -> None:
        if on_server_error not in ("crm", "fail"):
            raise ConfigError(f"on_server_error is 'crm' or 'fail', not {on_server_error!r}")
        self.on_server_error, self.unanswered = on_server_error, 0
        self.server_error: str | None = None
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
            ModelError: If it cannot be loaded; :class:`UnansweredError` if its server fails.
        """
        with self._llm_lock:
            return self._scorer_of(log).logits(samples, progress).double().numpy()

    def llm_tokens(self, log: Log, samples: Samples) -> int:
        """Tokens that the language model reads for samples; what they share counts once.

        Raises:
            ModelError: If it cannot be loaded.
        """
        with self._llm_lock:
            return tokens_read(self._scorer_of(log).layout.encode(samples))

    def _scorer_of(self, log: Log) -> Scorer:
        if self._make_scorer is None:
            self._make_scorer = self.load_llm()
        if self._scorer is None or self._scorer[0] is not log:
            self._scorer = log, self._make_scorer(log)
        return self._scorer[1]

    def ask(
        self, log: Log, samples: Samples, progress: Callable[[int], None]
    ) -> tuple[Floats, Mask]:
        """The language model's raw logits, and which of them there are.

        Raises:
            ModelError: If it cannot be loaded, or its server fails and that is no reason to leave
                rows to the CRM.
        """
        try:
            logits = self.llm_logits(log, samples, progress)
            return logits, np.ones(len(logits), dtype=bool)
        except UnansweredError as error:
            if self.on_server_error == "fail":
                raise
            logits = error.logits.double().numpy()
            answered = ~np.isnan(logits)
            with self._llm_lock:
                self.unanswered += int((~answered).sum())
                self.server_error = str(error)
            return logits, answered


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
    adapted = load_adapter(model, adapter)
    answers = AnswerModel(adapted, layout.answers, negatives=layout.negatives)

    def make(log: Log) -> Scorer:
        layout = build_layout(config, log, tokenizer, recipe.template)
        return LlmScorer(answers, layout, config.tokens_per_batch)

    return make


def connect(
    recipe: Recipe,
    url: str,
    model: str,
    cache_salt: str | None,
    times: tuple[float, float],
    llm: str | None,
) -> MakeScorer:
    """The language model of a recipe, on a vLLM server.

    Args:
        recipe: Of the cascade.
        url: The server.
        model: Its name for the tuned model.
        cache_salt: Keeps the server's cached prompts to this caller.
        times: Seconds that a request may take, and all requests of one call.
        llm: The model that the caller names, for its tokenizer, as in :func:`load_local`.
    """
    tokenizer = load_tokenizer(llm or recipe.llm.model, fetch=llm is not None)

    def make(log: Log) -> Scorer:
        layout = build_layout(recipe.llm, log, tokenizer, recipe.template)
        return RemoteScorer(
            layout,
            url,
            model,
            cache_salt=cache_salt,
            timeout_s=times[0],
            job_timeout_s=times[1],
        )

    return make
