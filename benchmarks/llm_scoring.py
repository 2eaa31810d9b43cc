"""Bulk scoring by the language model: the naive recipe, the paper's prompt, the stream.

The naive recipe is transformers as it comes: a prompt for each sample, 16 at a time, padded, all
logits. It gets the stream's text, so that it computes the same probabilities, and so do all the
rows but the paper's. They take turns in one process.

    python benchmarks/llm_scoring.py [--rows N] [--rounds N] [--device cuda] [--llama-7b] [--json]
"""

from collections.abc import Callable, Sized
from typing import Any

import torch

from corellarec.data.log import Samples
from corellarec.llm.layout import Layout, TokenSequence, build_layout
from corellarec.llm.load import AnswerModel
from corellarec.llm.packing import make_batches
from llm import figures, flops, gemm_rate, naive_batches, setting, show, timed

UNIT = "samples/s"


def main() -> None:
    here = setting(__doc__ or "", rows=2000)
    log, config = here.log, here.config
    samples = log.samples(log.rows_of("test")[: here.rows])
    stream = build_layout(config, log, here.tokenizer)
    paper = build_layout(config.model_copy(update={"layout": "paper"}), log, here.tokenizer)
    own, stock = AnswerModel(here.new_model(), stream.answers), here.new_model()
    prompts = [
        alone(stream, samples, i) for i in range(0, len(samples), max(1, len(samples) // 96))
    ]
    prompts = prompts[:96]
    few = samples[: max(1, len(samples) // 8)]
    ways: dict[str, Callable[[], dict[str, Any]]] = {
        "transformers, a prompt each, padded": lambda: naive(prompts),
        "the paper's prompt, packed": lambda: ours(paper, few, packed=True),
        "stream, padded": lambda: ours(stream, samples, packed=False),
        "stream, packed": lambda: ours(stream, samples, packed=True),
    }

    @torch.inference_mode()
    def naive(prompts: list[TokenSequence]) -> dict[str, Any]:
        lengths = [len(one.ids) for one in prompts]
        batches = list(naive_batches(prompts, here.device))

        def work() -> None:
            for ids, mask, last in batches:
                logits = stock(input_ids=ids, attention_mask=mask, use_cache=False).logits
                logits[torch.arange(len(ids)), last].float()

        seconds = timed(work, here.device)
        return cost(prompts, seconds, sum(lengths), flops(stock, lengths))

    @torch.inference_mode()
    def ours(layout: Layout, samples: Samples, *, packed: bool) -> dict[str, Any]:
        own.base.set_attn_implementation("corellarec_packed" if packed else "sdpa")
        sequences = layout.encode(samples)
        lengths = [one.length for one in sequences]
        batches = make_batches(sequences, config.tokens_per_batch, packed=packed)

        def work() -> None:
            for batch in batches:
                own(batch)

        seconds = timed(work, here.device)
        tokens = sum(batch.tokens for batch in batches)
        return cost(samples, seconds, tokens, flops(own.base, lengths))

    found = {name: [way()] for name, way in ways.items()}  # warms up
    for _ in range(here.rounds):
        for name, way in ways.items():
            found[name].append(way())
    rows = []
    for name, tries in found.items():
        best = min(tries[1:], key=lambda one: one["seconds"])
        rows.append(figures(name, UNIT, **best))
    show(here, rows, UNIT, gemm_rate(here))


def cost(samples: Sized, seconds: float, tokens: int, flops: float) -> dict[str, Any]:
    """What one way took."""
    return {"samples": len(samples), "seconds": seconds, "tokens": tokens, "flops": flops}


def alone(layout: Layout, samples: Samples, i: int) -> TokenSequence:
    """The prompt of one sample."""
    (sequence,) = layout.encode(samples[i : i + 1])
    return sequence.whole()


if __name__ == "__main__":
    main()
