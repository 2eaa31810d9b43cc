"""Tuning the language model's adapter: the naive recipe and the stream.

The naive recipe is transformers and peft as they come: a prompt for each sample, 16 at a time,
padded, all logits, cross-entropy of the last. All train the same adapter and take turns in one
process; a step is forward, backward and AdamW.

With ``--implicit`` rows are positives and drawn negatives, and one way more is measured, in which
each negative brings its user's history.

    python benchmarks/llm_tuning.py [--rows N] [--rounds N] [--implicit] [--device cuda]
        [--llama-7b] [--quick] [--json]
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from corellarec.config import LoraConfig
from corellarec.llm.layout import build_layout
from corellarec.llm.load import AnswerModel
from corellarec.llm.lora import add_adapter
from corellarec.llm.packing import make_batches
from harness import take_turns
from llm import Pass, Setting, flops, naive_batches, report, setting, spread, timed
from llm_scoring import alone

NAIVE, OURS = "transformers and peft, a prompt each, padded", "stream, packed"
APART = "stream, packed, a history for each negative"
TOKENS_PER_BATCH = 2048


def main() -> None:
    here = setting(
        __doc__, rows=600, peer_rows=32, quick={"rows": 200, "peer_rows": 16, "rounds": 2}
    )
    rows = here.log.rows_of("train")[: here.given.rows]
    ways = {
        NAIVE: naive(here, rows),
        "stream, padded": ours(here, rows, packed=False),
        OURS: ours(here, rows, packed=True),
        "stream, packed, upper half of the blocks": ours(here, rows, packed=True, half=True),
    }
    if here.given.implicit:
        ways[APART] = ours(here, rows, packed=True, apart=True)
    passes = take_turns(ways, here.given.rounds)
    report(here, passes, naive=NAIVE, ours=OURS, unit="samples/s")


def naive(here: Setting, rows: torch.Tensor) -> Callable[[], Pass]:
    """Trains on some of the rows, evenly spread."""
    layout = build_layout(here.config, here.log, here.tokenizer)
    model = add_adapter(here.new_model(), LoraConfig()).train()
    optimizer = adamw(model)
    some = rows[spread(len(rows), here.given.peer_rows)]
    samples = here.log.samples(some)
    prompts = [alone(layout, samples, i) for i in range(len(samples))]
    answers = torch.tensor(layout.answers)[here.log.labels(some).long()].to(here.device)
    batches = list(naive_batches(prompts, here.device))
    lengths = [len(one.ids) for one in prompts]

    def work() -> None:
        done = 0
        for ids, mask, last in batches:
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            target = answers[done : done + len(ids)]
            cross_entropy(logits[torch.arange(len(ids)), last].float(), target).backward()
            optimizer.step()
            optimizer.zero_grad()
            done += len(ids)

    work_flops = flops(model.get_base_model(), lengths, training=True)  # pyright: ignore
    return lambda: Pass(len(some), timed(work, here.device), sum(lengths), work_flops)


def ours(
    here: Setting,
    rows: torch.Tensor,
    *,
    packed: bool,
    half: bool = False,
    apart: bool = False,
) -> Callable[[], Pass]:
    """Trains on all rows."""
    layout = build_layout(here.config, here.log, here.tokenizer)
    base = here.new_model()
    config = LoraConfig(blocks=base.config.num_hidden_layers // 2 if half else 0)
    model = AnswerModel(add_adapter(base, config), layout.answers).train()
    if not packed:
        model.base.set_attn_implementation("sdpa")
    optimizer = adamw(model)
    samples, label = here.log.samples(rows), here.log.labels(rows).float().to(here.device)
    sequences = layout.encode(samples)
    if apart:
        streams = [one for one in sequences if one.after is None]
        negatives = [one.samples[0] for one in sequences if one.after is not None]
        own = [
            replace(one, samples=np.array([number]))
            for number in negatives
            for one in layout.encode(samples[number : number + 1])
        ]
        sequences = [*streams, *own]
    batches = make_batches(sequences, TOKENS_PER_BATCH, packed=packed)
    tokens = sum(batch.tokens for batch in batches)

    def work() -> None:
        for batch in batches:
            logit = model(batch).logit
            binary_cross_entropy_with_logits(logit, label[batch.sample]).backward()
            optimizer.step()
            optimizer.zero_grad()

    lengths = [len(one.ids) for one in sequences]
    whole = flops(model.base, lengths, training=True)
    if half:  # forward all, backward a half
        whole = (whole + flops(model.base, lengths)) / 2
    return lambda: Pass(len(rows), timed(work, here.device), tokens, whole)


def adamw(model: nn.Module) -> torch.optim.AdamW:
    """For what is trained."""
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-4, fused=True)


if __name__ == "__main__":
    main()
