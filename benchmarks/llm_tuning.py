"""Tuning the language model's adapter: the naive recipe and the stream.

The naive recipe is transformers and peft as they come: a prompt for each sample, 16 at a time,
padded, all logits, cross-entropy of the last. All train the same adapter and take turns in one
process; a step is forward, backward and AdamW.

    python benchmarks/llm_tuning.py [--rows N] [--rounds N] [--device cuda] [--llama-7b] [--json]
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from corellarec.config import LoraConfig
from corellarec.llm.layout import build_layout
from corellarec.llm.load import AnswerModel
from corellarec.llm.lora import add_adapter
from corellarec.llm.packing import make_batches
from llm import Setting, figures, flops, gemm_rate, naive_batches, setting, show, timed
from llm_scoring import alone

UNIT = "samples/s"
TOKENS_PER_BATCH = 2048


def main() -> None:
    here = setting(__doc__ or "", rows=600)
    rows = here.log.rows_of("train")[: here.rows]
    ways = {
        "transformers and peft, a prompt each, padded": naive(here, rows),
        "stream, padded": ours(here, rows, packed=False),
        "stream, packed": ours(here, rows, packed=True),
        "stream, packed, upper half of the blocks": ours(here, rows, packed=True, half=True),
    }
    found = {name: [way()] for name, way in ways.items()}  # warms up
    for _ in range(here.rounds):
        for name, way in ways.items():
            found[name].append(way())
    best = {name: min(tries[1:], key=lambda one: one["seconds"]) for name, tries in found.items()}
    show(here, [figures(name, UNIT, **one) for name, one in best.items()], UNIT, gemm_rate(here))


def naive(here: Setting, rows: torch.Tensor) -> Callable[[], dict[str, Any]]:
    """Trains on every so many-th row."""
    layout = build_layout(here.config, here.log, here.tokenizer)
    model = add_adapter(here.new_model(), LoraConfig()).train()
    optimizer = adamw(model)
    some = rows[:: max(1, len(rows) // 32)][:32]
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

    return lambda: {
        "samples": len(some),
        "seconds": timed(work, here.device),
        "tokens": sum(lengths),
        "flops": flops(model.get_base_model(), lengths, training=True),  # pyright: ignore
    }


def ours(
    here: Setting, rows: torch.Tensor, *, packed: bool, half: bool = False
) -> Callable[[], dict[str, Any]]:
    """Trains on all rows."""
    layout = build_layout(here.config, here.log, here.tokenizer)
    base = here.new_model()
    config = LoraConfig(blocks=base.config.num_hidden_layers // 2 if half else 0)
    model = AnswerModel(add_adapter(base, config), layout.answers).train()
    if not packed:
        model.base.set_attn_implementation("sdpa")
    optimizer = adamw(model)
    sequences = layout.encode(here.log.samples(rows))
    batches = make_batches(sequences, TOKENS_PER_BATCH, packed=packed)
    label = here.log.labels(rows).float().to(here.device)

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
    return lambda: {
        "samples": len(rows),
        "seconds": timed(work, here.device),
        "tokens": sum(lengths),
        "flops": whole,
    }


def adamw(model: nn.Module) -> torch.optim.AdamW:
    """For what is trained."""
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-4, fused=True)


if __name__ == "__main__":
    main()
