"""Vectors of titles: mean hidden states of a language model."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from corellarec.llm.packing import make_batches
from corellarec.llm.sequence import TokenSequence
from corellarec.llm.text import Text


@torch.inference_mode()
def title_vectors(
    titles: Sequence[str],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tokens_per_batch: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """``(titles, hidden)`` fp32 on the CPU: the mean of the last layer over each title's tokens.

    A title stands on a line of its own; the tokens before it, which are
    attention sinks, are not counted. An empty title is zeros.

    Args:
        titles: The texts.
        model: A causal language model.
        tokenizer: Its tokenizer.
        tokens_per_batch: Padded tokens in one pass.
        progress: Called after each batch with the number of titles it held.
    """
    text = Text(tokenizer)
    before = text("\n", start=True)
    sequences = []
    for number, title in enumerate(titles):
        if own := text(title):
            ids = np.array(before + own)
            places = np.arange(len(before), len(ids))
            sequences.append(TokenSequence(ids, places, np.full(len(own), number)))
    total = torch.zeros(len(titles), model.config.hidden_size)
    count = torch.zeros(len(titles), 1)
    for batch in make_batches(sequences, tokens_per_batch, packed=False):
        out = model.get_decoder()(input_ids=batch.ids.to(model.device), use_cache=False)
        states = out.last_hidden_state.float().cpu()[batch.row, batch.place]
        total.index_add_(0, batch.sample, states)
        count.index_add_(0, batch.sample, torch.ones(len(states), 1))
        progress(len(batch.ids))
    return total / count.clamp(min=1)
