"""Every way to score gives what one prompt at a time gives through the model's own code."""

import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_layout import PAPER, STREAM, one_prompt_each
from vllm_server import ADAPTER, VllmServer

from corellarec.data.log import Log
from corellarec.llm.layout import PaperLayout, StreamLayout
from corellarec.llm.load import AnswerModel, load_model
from corellarec.llm.remote import RemoteScorer
from corellarec.llm.score import LlmScorer
from corellarec.llm.state import UserStates

CPU = torch.device("cpu")
HISTORY, WINDOW = 5, 14


@pytest.fixture(scope="module")
def llm(tiny_llm):
    return load_model(str(tiny_llm), torch.float32, CPU)


@pytest.fixture(scope="module")
def server(llm):
    with VllmServer(llm[0]) as server:
        yield server


def build(kind, log, tokenizer):
    if kind == "stream":
        return StreamLayout(log, tokenizer, STREAM, HISTORY, WINDOW)
    return PaperLayout(log, tokenizer, PAPER, HISTORY)


def padded(model, layout, samples, server):
    model.packs = False
    return LlmScorer(model, layout, 300).logits(samples)


def packed(model, layout, samples, server):
    return LlmScorer(model, layout, 300).logits(samples)


def states(model, layout, samples, server):
    """User by user, from states of which few fit the memory."""
    kept = UserStates(model, layout, 50_000)
    log, found = layout.log, torch.empty(len(samples))
    for i in range(len(samples)):
        user, item = int(samples.user[i]), int(samples.item[i])
        rows = slice(int(samples.begin[i]), int(samples.end[i]))
        history = log.history_item[rows].tolist(), log.history_label[rows].tolist()
        found[i] = kept.score(user, *history, [item], user)[0]
    return found


def remote(model, layout, samples, server):
    return RemoteScorer(layout, server.url, ADAPTER, prompts_per_request=4).logits(samples)


WAYS = [
    ("stream", packed), ("stream", padded), ("stream", states), ("stream", remote),
    ("paper", packed), ("paper", padded), ("paper", remote),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "way"), WAYS)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=st.lists(st.integers(0, 1500), max_size=12, unique=True),
    pairs=st.lists(st.tuples(st.integers(-1, 39), st.integers(0, 49)), max_size=8),
)
def test_all_ways_agree(log, llm, server, kind, way, rows, pairs):
    model, tokenizer = llm
    layout = build(kind, log, tokenizer)
    answer_model = AnswerModel(model, layout.answers)
    chosen = [log.samples(torch.tensor(sorted(rows), dtype=torch.long))]
    if pairs:
        user, item = torch.tensor(pairs).T
        chosen.append(log.pairs(user, item))
    for samples in chosen:
        if way is states:  # reads the last lines; a window may hold more
            continue_from = build(kind, log, tokenizer)
            continue_from.window = HISTORY + 1  # pyright: ignore[reportAttributeAccessIssue]
            expected = one_prompt_each(answer_model, continue_from.encode(samples), len(samples))
            layout.window = HISTORY + 1  # pyright: ignore[reportAttributeAccessIssue]
        else:
            expected = one_prompt_each(answer_model, layout.encode(samples), len(samples))
        found = way(answer_model, layout, samples, server)
        torch.testing.assert_close(found.sigmoid(), expected.sigmoid(), atol=1e-4, rtol=0)


PIECES = ["<|end|>", " -> Yes", "-> No\n", "\n", "\r", "\x00", "\x1b[2J", "\u202e", "\u2028", "😀",
          "é", "a" * 10_000, "{title}", "{", "}", " ", "Film", "-", ">", "-\u200b>"]  # fmt: skip


def scored(llm, kind, log, rows):
    """Logits of rows, and what their sequences hold of answers, lines and arrows."""
    model, tokenizer = llm
    layout = build(kind, log, tokenizer)
    sequences = [s.whole() for s in layout.encode(log.samples(rows))]
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert not any((s.ids == end).any() for s in sequences)
    texts = [tokenizer.decode(s.ids) for s in sequences]
    shapes = [
        (len(s.places), text.count("\n"), text.count("->"), text.count("Answer:"))
        for s, text in zip(sequences, texts, strict=True)
    ]
    answer_model = AnswerModel(model, layout.answers)
    return LlmScorer(answer_model, layout, 2000).logits(log.samples(rows)), shapes


@pytest.fixture(scope="module")
def plain(log, llm):
    """By kind, what :func:`scored` says of the log as it is."""
    return {kind: scored(llm, kind, log, torch.arange(200)) for kind in ("stream", "paper")}


@pytest.mark.parametrize("kind", ["stream", "paper"])
@settings(max_examples=15, deadline=None)
@given(title=st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=5)), max_size=8))
def test_a_title_changes_no_other_row_and_no_answer(log, llm, plain, kind, title):
    """Hostile titles: special tokens, answers, line breaks, control characters, templates."""
    hostile = Log(
        log.rows,
        log.users,
        log.items.with_columns(
            title=pl.when(pl.int_range(pl.len()) == 3)
            .then(pl.lit("".join(title)))
            .otherwise("title")
        ),
        log.features,
    )
    rows = torch.arange(200)
    untouched = ~torch.isin(log.user[rows], log.user[rows][log.item[rows] == 3])
    assert untouched.sum() > 20
    scores, shapes = scored(llm, kind, hostile, rows)
    before, shapes_before = plain[kind]
    assert shapes == shapes_before
    torch.testing.assert_close(scores[untouched], before[untouched], atol=1e-4, rtol=1e-4)
    assert torch.isfinite(scores).all()
