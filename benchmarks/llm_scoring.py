"""Bulk scoring by the language model: the naive recipe, the paper's prompt, the stream.

The naive recipe is transformers as it comes: a prompt for each sample, 16 at a time, padded, all
logits. It gets the stream's text, so that it computes the same probabilities, and so do all the
rows but the paper's. They take turns in one process.

    python benchmarks/llm_scoring.py [--rows N] [--rounds N] [--device cuda] [--llama-7b] [--quick]
        [--json]
"""

from collections.abc import Callable

import torch

from corellarec.data.log import Samples
from corellarec.llm.layout import Layout, build_layout
from corellarec.llm.load import AnswerModel
from corellarec.llm.packing import make_batches
from corellarec.llm.sequence import TokenSequence
from harness import take_turns
from llm import Pass, flops, naive_batches, report, setting, spread, timed

NAIVE, OURS = "transformers, a prompt each, padded", "stream, packed"


def main() -> None:
    here = setting(
        __doc__, rows=2000, peer_rows=96, quick={"rows": 400, "peer_rows": 32, "rounds": 2}
    )
    log, config = here.log, here.config
    samples = log.samples(log.rows_of("test")[: here.given.rows])
    stream = build_layout(config, log, here.tokenizer)
    paper = build_layout(config.model_copy(update={"layout": "paper"}), log, here.tokenizer)
    own, stock = AnswerModel(here.new_model(), stream.answers), here.new_model()
    chosen = spread(len(samples), here.given.peer_rows).tolist()
    prompts = [alone(stream, samples, i) for i in chosen]
    few = samples[: max(1, len(samples) // 8)]

    @torch.inference_mode()
    def naive() -> Pass:
        lengths = [len(one.ids) for one in prompts]
        batches = list(naive_batches(prompts, here.device))

        def work() -> None:
            for ids, mask, last in batches:
                logits = stock(input_ids=ids, attention_mask=mask, use_cache=False).logits
                logits[torch.arange(len(ids)), last].float()

        seconds = timed(work, here.device)
        return Pass(len(prompts), seconds, sum(lengths), flops(stock, lengths))

    @torch.inference_mode()
    def ours(layout: Layout, samples: Samples, *, packed: bool) -> Pass:
        own.base.set_attn_implementation("corellarec_packed" if packed else "sdpa")
        sequences = layout.encode(samples)
        lengths = [one.length for one in sequences]
        batches = make_batches(sequences, config.tokens_per_batch, packed=packed)

        def work() -> None:
            for batch in batches:
                own(batch)

        seconds = timed(work, here.device)
        tokens = sum(batch.tokens for batch in batches)
        return Pass(len(samples), seconds, tokens, flops(own.base, lengths))

    ways: dict[str, Callable[[], Pass]] = {
        NAIVE: naive,
        "the paper's prompt, packed": lambda: ours(paper, few, packed=True),
        "stream, padded": lambda: ours(stream, samples, packed=False),
        OURS: lambda: ours(stream, samples, packed=True),
    }
    passes = take_turns(ways, here.given.rounds)
    report(here, passes, naive=NAIVE, ours=OURS, unit="samples/s")


def alone(layout: Layout, samples: Samples, i: int) -> TokenSequence:
    """The prompt of one sample."""
    (sequence,) = layout.encode(samples[i : i + 1])
    return sequence.whole()


if __name__ == "__main__":
    main()
