from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from corellarec.llm.attention import CHUNK, NAME, Block, _causal, _masked, add_block, enable_packing
from corellarec.llm.layout import PaperLayout, StreamLayout
from corellarec.llm.load import AnswerModel, load_model
from corellarec.llm.packing import make_batches
from corellarec.llm.score import LlmScorer
from corellarec.llm.sequence import TokenSequence, context
from corellarec.llm.template import load_template

CPU = torch.device("cpu")
SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.3,
}
PACKED = {
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SIZES)),
    "mistral with a window of 9": (MistralForCausalLM, MistralConfig(**SIZES, sliding_window=9)),
    "gpt2": (
        GPT2LMHeadModel,
        GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3),
    ),
}
PADDED = {
    "mamba": (MambaForCausalLM, MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2)),
    "gemma2, which caps its scores": (Gemma2ForCausalLM, Gemma2Config(**SIZES)),
}


def build(kind, config):
    torch.manual_seed(0)
    return kind(deepcopy(config)).eval()


@pytest.fixture(scope="module")
def llm(tiny_llm):
    return load_model(str(tiny_llm), torch.float32, CPU)


@st.composite
def trees(draw):
    """Sequences of random tokens; some continue another one, answered or not, or its beginning."""
    lengths, sequences, count = st.integers(1, 40), [], 0
    seed = np.random.default_rng(draw(st.integers(0, 10_000)))

    def answered(ids, after=None, shared=None):
        nonlocal count
        places = np.unique(seed.integers(0, len(ids), 3))
        count += len(places)
        samples = np.arange(count - len(places), count)
        return TokenSequence(ids, places, samples, after, shared)

    for _ in range(draw(st.integers(1, 6))):
        ids = seed.integers(0, 300, draw(lengths))
        before = context(ids.tolist())
        if draw(st.booleans()):
            before = answered(ids)
            sequences.append(before)
        for _ in range(draw(st.integers(1, 9))):
            after = before if draw(st.booleans()) else None
            shared = draw(st.one_of(st.none(), st.integers(1, len(ids)))) if after else None
            sequences.append(answered(seed.integers(0, 300, draw(lengths)), after, shared))
    return sequences, count


def one_at_a_time(model, answers, sequences, count):
    """Logits of whole prompts, each cut at its answer, through the model's own LM head."""
    logits = torch.full((count,), float("nan"))
    for sequence in (one.whole() for one in sequences):
        for place, sample in zip(sequence.places, sequence.samples, strict=True):
            with torch.inference_mode():
                last = model(torch.from_numpy(sequence.ids[None, : place + 1])).logits[0, -1]
            logits[sample] = last[answers[1]] - last[answers[0]]
    return logits


def batched(model, sequences, count, budget, *, packed):
    logits = torch.full((count,), float("nan"))
    for batch in make_batches(sequences, budget, packed=packed):
        with torch.inference_mode():
            logits[batch.sample] = model(batch).logit
    return logits


@pytest.mark.parametrize("name", PACKED)
@settings(max_examples=15, deadline=None)
@given(tree=trees(), budget=st.integers(1, 400))
def test_packed_equals_one_prompt_at_a_time(name, tree, budget):
    sequences, count = tree
    own, other = build(*PACKED[name]), build(*PACKED[name])
    model = AnswerModel(other, (5, 6))
    assert model.packs
    expected = one_at_a_time(own, (5, 6), sequences, count)
    found = batched(model, sequences, count, budget, packed=True)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", PADDED)
def test_models_that_cannot_be_packed_are_padded(name):
    own = build(*PADDED[name])
    model = AnswerModel(build(*PADDED[name]), (5, 6))
    assert not model.packs
    assert model.base.config._attn_implementation != NAME
    ids = np.arange(60) % 300
    sequences = [
        TokenSequence(ids[:n], np.array([n // 2, n - 1]), np.array([2 * i, 2 * i + 1]), after)
        for i, (n, after) in enumerate([(20, None), (9, context(list(range(7)))), (33, None)])
    ]
    expected = one_at_a_time(own, (5, 6), sequences, 6)
    found = batched(model, sequences, 6, 100, packed=False)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_the_check_sees_a_model_that_ignores_the_plan():
    torch.manual_seed(0)
    model = build(*PACKED["qwen3"])
    decoder = model.get_decoder()
    forward = decoder.forward
    decoder.forward = lambda plan=None, **given: forward(**given)
    assert not enable_packing(model)
    decoder.forward = forward
    assert enable_packing(model)


def test_rounding_in_many_layers_is_no_other_computation():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=32,
        num_attention_heads=4, initializer_range=0.2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    decoder: Any = model.get_decoder()
    forward = decoder.forward
    decoder.forward = lambda plan=None, **given: forward(**given)
    assert not enable_packing(model)
    decoder.forward = forward
    assert enable_packing(model)


@settings(max_examples=25, deadline=None)
@given(tokens=st.integers(1, 400), seed=st.integers(0, 100))
def test_products_equal_torchs_attention(tokens, seed):
    torch.manual_seed(seed)
    q, k, v = torch.randn(6, tokens, 16), torch.randn(2, tokens, 16), torch.randn(2, tokens, 16)
    found = _causal(q.bfloat16(), k.bfloat16(), v.bfloat16(), 0.25).float()
    q, k, v = q.bfloat16().float(), k.bfloat16().float(), v.bfloat16().float()
    expected = _causal(q, k, v, 0.25)
    reads = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    torch.testing.assert_close(_masked(q, k, v, reads, 0.25), expected)
    for trained in (False, True):
        queries = q.bfloat16().requires_grad_(trained)
        masked = _masked(queries, k.bfloat16(), v.bfloat16(), reads, 0.25).float()
        assert (masked - expected).square().mean().sqrt() < 0.01
    assert (found - expected).square().mean().sqrt() < 0.01
    assert (found - expected).abs().max() < 0.1


def test_batches_keep_to_the_budget_and_lose_nothing(log, llm):
    layout = StreamLayout(log, llm[1], load_template("movies").stream, 5, 20)
    sequences = layout.encode(log.samples(torch.arange(400)))
    longest = max(len(s.ids) for s in sequences)
    for packed in (True, False):
        batches = make_batches(sequences, 1000, packed=packed)
        assert all(batch.ids.numel() <= max(1000, longest) for batch in batches)
        assert sum(batch.tokens for batch in batches) == sum(len(s.ids) for s in sequences)
        samples = torch.cat([batch.sample for batch in batches])
        assert samples.sort().values.tolist() == list(range(400))
    assert all(
        batch.ids.shape == (1, batch.tokens) for batch in make_batches(sequences, 99, packed=True)
    )


@pytest.mark.parametrize("kind", ["stream", "paper"])
def test_candidates_share_their_history(log, llm, kind):
    model, tokenizer = llm
    template = load_template("movies")
    if kind == "stream":
        layout = StreamLayout(log, tokenizer, template.stream, 5, 20)
    else:
        layout = PaperLayout(log, tokenizer, template.paper, 5)
    user = torch.tensor([3, 7, 3, 3, -1, 7, 3])
    samples = log.candidates(user, torch.arange(7))
    answer_model = AnswerModel(model, layout.answers)
    scorer = LlmScorer(answer_model, layout, 4000)
    found = scorer.logits(samples)
    alone = torch.stack([scorer.logits(samples[i : i + 1])[0] for i in range(7)])
    torch.testing.assert_close(found, alone, atol=1e-4, rtol=1e-4)
    sequences = layout.encode(samples)
    read = sum(batch.tokens for batch in make_batches(sequences, 10_000, packed=True))
    assert read < 0.7 * sum(len(one.whole().ids) for one in sequences)


def test_training_reaches_every_token(llm, tiny_llm):
    """Gradients of packed rows are those of padded ones."""
    model = AnswerModel(load_model(str(tiny_llm), torch.float32, CPU)[0], (5, 6))
    before, stream = (
        context(list(range(9))),
        TokenSequence(np.arange(30), np.array([3]), np.array([10])),
    )
    continued = [(None, None), (before, None), (before, None), (stream, 4), (stream, 30)]
    sequences = [
        stream,
        *(
            TokenSequence(np.arange(20) + i, np.array([4, 19]), np.array([2 * i, 2 * i + 1]), *of)
            for i, of in enumerate(continued)
        ),
    ]
    weight = model.base.get_input_embeddings().weight
    gradients = []
    for packed in (True, False):
        model.zero_grad()
        (batch,) = make_batches(sequences, 1000, packed=packed)
        (model(batch).logit * torch.arange(1.0, 12.0)[batch.sample]).sum().backward()
        gradients.append(weight.grad.clone())  # pyright: ignore[reportCallIssue]
        if packed:
            model.base.set_attn_implementation("sdpa")
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-4, rtol=1e-4)


def test_a_trunk_is_read_with_each_batch_of_its_branches_and_answered_once(llm):
    stream = TokenSequence(np.arange(50), np.array([9, 49]), np.array([0, 1]))
    branches = [
        TokenSequence(np.arange(10), np.array([9]), np.array([i]), stream, 5 * i)
        for i in range(2, 10)
    ]
    other = TokenSequence(np.arange(60), np.array([9]), np.array([10]))
    sequences = [other, stream, *branches]
    batches = make_batches(sequences, 140, packed=True)
    assert [batch.tokens for batch in batches] == [60, 130]  # not 140 and 90: they stay together
    batches = make_batches(sequences, 100, packed=True)
    assert [batch.tokens for batch in batches] == [60, 100, 80]
    assert torch.cat([batch.sample for batch in batches]).sort().values.tolist() == list(range(11))


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=12),
    before=st.integers(1, 90),
    window=st.sampled_from([None, 7]),
    seed=st.integers(0, 99),
)
def test_branches_read_their_part_of_the_trunk_and_themselves(lengths, before, window, seed):
    generator = np.random.default_rng(seed)
    reads = generator.integers(0, before + 1, len(lengths)).tolist()
    blocks: list[Block] = []
    for start, length, read in zip(np.cumsum([0, *lengths]), lengths, reads, strict=False):
        add_block(blocks, Block(int(start), (length,), 3, (read,)))
    assert sum(block.tokens for block in blocks) == sum(lengths)
    expected = [
        [*range(max(0, at - window + 1 if window else 0), at + 1)]
        for length, read in zip(lengths, reads, strict=True)
        for at in range(read, read + length)
    ]
    found = []
    for block in blocks:
        assert block.tokens <= CHUNK or len(block.lengths) == 1
        context, start = max(block.reads), 0
        for length, read in zip(block.lengths, block.reads, strict=True):
            for row in block.mask(window)[start : start + length]:
                keys = row.nonzero().squeeze(1)
                own = keys[keys >= context] - context - start + read
                found.append([*keys[keys < context].tolist(), *own.tolist()])
            start += length
    assert found == expected
