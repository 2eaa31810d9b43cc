"""Bulk scoring: samples in, one logit each out."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor

from corellarec.base.processes import added_up, in_rounds
from corellarec.data.log import Samples
from corellarec.llm.layout import Layout
from corellarec.llm.load import AnswerModel


@dataclass
class Cost:
    """What scoring took; adds up over calls.

    Args:
        samples: Samples scored.
        tokens: Tokens computed, without padding.
        seconds: Wall time.
    """

    samples: int = 0
    tokens: int = 0
    seconds: float = 0.0


class Scorer(Protocol):
    """Samples in, one logit each out."""

    cost: Cost
    layout: Layout

    def logits(
        self, samples: Samples, progress: Callable[[int], None] = lambda answered: None
    ) -> Tensor:
        """``(n,)`` fp32 on the CPU: logit(yes) - logit(no) of each sample.

        Args:
            samples: What to score.
            progress: Called at intervals with the number of samples just answered.
        """
        ...


class LlmScorer:
    """Scores samples with a language model in a layout.

    Args:
        model: The model.
        layout: How samples become tokens.
        tokens_per_batch: Tokens in one pass.
        accelerator: Processes that share the batches; all of them score the same samples, and each
            gets all logits.
    """

    def __init__(
        self,
        model: AnswerModel,
        layout: Layout,
        tokens_per_batch: int,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.model, self.layout, self.tokens_per_batch = model, layout, tokens_per_batch
        self.accelerator, self.cost = accelerator, Cost()

    @torch.no_grad()
    def logits(
        self, samples: Samples, progress: Callable[[int], None] = lambda answered: None
    ) -> Tensor:
        """``(n,)`` fp32 on the CPU: logit(yes) - logit(no) of each sample.

        Args:
            samples: What to score.
            progress: Called after each batch with the number of samples it answered.
        """
        start = time.perf_counter()
        logits = torch.zeros(len(samples))
        self.model.eval()
        batches = self.model.batches(self.layout.encode(samples), self.tokens_per_batch)
        for batch, counts, together in in_rounds(batches, self.accelerator):
            logit = self.model(batch).logit.cpu()
            if counts:
                logits[batch.sample] = logit
            self.cost.tokens += sum(one.tokens for one in together)
            progress(sum(len(one.sample) for one in together))
        logits = added_up(logits, self.accelerator)
        self.cost.samples += len(samples)
        self.cost.seconds += time.perf_counter() - start
        return logits
