"""Candidates for one user: whole prompts, a shared history, and a state that is kept.

The naive recipe is transformers as it comes: a prompt for each candidate, 16 at a time, padded,
all logits. The state has read the user's last 20 lines before the clock starts.

    python benchmarks/llm_candidates.py [--rows CANDIDATES] [--rounds N] [--device cuda] [--quick]
        [--json]
"""

from collections.abc import Callable

import torch

from corellarec.llm.layout import StreamLayout, build_layout
from corellarec.llm.load import AnswerModel
from corellarec.llm.score import LlmScorer
from corellarec.llm.state import UserState
from harness import take_turns
from llm import Pass, naive_batches, report, setting, spread, timed
from llm_scoring import alone

NAIVE, OURS = "transformers, a prompt each, padded", "a kept state"


def main() -> None:
    here = setting(
        __doc__, rows=100, peer_rows=100, quick={"rows": 100, "peer_rows": 32, "rounds": 2}
    )
    log = here.log
    layout = build_layout(here.config, log, here.tokenizer)
    assert isinstance(layout, StreamLayout)
    own, stock = AnswerModel(here.new_model(), layout.answers), here.new_model()
    user = int(torch.bincount(log.user).argmax())
    items = torch.arange(here.given.rows)
    samples = log.candidates(torch.full_like(items, user), items)
    chosen = spread(len(samples), here.given.peer_rows).tolist()
    prompts = [alone(layout, samples, i) for i in chosen]
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

    def passed(work: Callable[[], None], samples: int, tokens: int) -> Callable[[], Pass]:
        return lambda: Pass(samples, timed(work, here.device), tokens)

    ways = {
        NAIVE: passed(naive, len(prompts), sum(len(one.ids) for one in prompts)),
        "the history read once": passed(scorer, len(samples), before + shared),
        OURS: passed(kept, len(samples), shared),
    }
    passes = take_turns(ways, here.given.rounds)
    size = state.nbytes / 2**20
    line = ([history[0][0]], [history[1][0]])
    extend = 1e3 * min(timed(lambda: state.extend(*line), here.device) for _ in range(5))
    print(f"a further line is read in {extend:.0f} ms; the state takes {size:.1f} MiB")
    report(
        here, passes, naive=NAIVE, ours=OURS, unit="candidates/s", extend_ms=extend, state_mb=size
    )


if __name__ == "__main__":
    main()
