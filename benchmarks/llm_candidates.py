"""Candidates for one user: whole prompts, a shared history, and a state that is kept.

The naive recipe is transformers as it comes: a prompt for each candidate, 16 at a time, padded,
all logits. The state has read the user's last 20 lines before the clock starts.

    python benchmarks/llm_candidates.py [--rows CANDIDATES] [--rounds N] [--device cuda] [--json]
"""

from collections.abc import Callable

import torch

from corellarec.llm.layout import StreamLayout, build_layout
from corellarec.llm.load import AnswerModel
from corellarec.llm.score import LlmScorer
from corellarec.llm.state import UserState
from llm import figures, gemm_rate, naive_batches, setting, show, timed
from llm_scoring import alone

UNIT = "candidates/s"


def main() -> None:
    here = setting(__doc__ or "", rows=100)
    log = here.log
    layout = build_layout(here.config, log, here.tokenizer)
    assert isinstance(layout, StreamLayout)
    own, stock = AnswerModel(here.new_model(), layout.answers), here.new_model()
    user = int(torch.bincount(log.user).argmax())
    items = torch.arange(here.rows)
    samples = log.pairs(torch.full_like(items, user), items)
    prompts = [alone(layout, samples, i) for i in range(len(samples))]
    batches = list(naive_batches(prompts, here.device))
    end = int(log.user_begin[user + 1])
    last = slice(end - here.config.history_length, end)
    history = log.item[last].tolist(), log.history_label[last].tolist()
    state = UserState(own, layout, user)
    state.extend(*history)
    shared = sum(len(one.ids) for one in layout.encode(samples))
    before = len(prompts[0].ids) - len(layout.line(0))

    @torch.inference_mode()
    def naive() -> None:
        for ids, mask, places in batches:
            logits = stock(input_ids=ids, attention_mask=mask, use_cache=False).logits
            logits[torch.arange(len(ids)), places].float()

    def scorer() -> None:
        LlmScorer(own, layout, here.config.tokens_per_batch).logits(samples)

    def kept() -> None:
        state.score(items.tolist())

    ways: dict[str, tuple[Callable[[], None], int]] = {
        "transformers, a prompt each, padded": (naive, sum(len(one.ids) for one in prompts)),
        "the history read once": (scorer, before + shared),
        "a kept state": (kept, shared),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(1 + here.rounds):
        for name, (work, _) in ways.items():
            seconds[name].append(timed(work, here.device))
    rows = [
        figures(name, UNIT, len(samples), min(seconds[name][1:]), tokens)
        for name, (_, tokens) in ways.items()
    ]
    show(here, rows, UNIT, gemm_rate(here))
    line = ([history[0][0]], [history[1][0]])
    extend = min(timed(lambda: state.extend(*line), here.device) for _ in range(5))
    size = state.nbytes / 2**20
    print(f"a further line is read in {1e3 * extend:.0f} ms; the state takes {size:.1f} MiB")


if __name__ == "__main__":
    main()
