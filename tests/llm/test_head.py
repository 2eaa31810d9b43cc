"""The two answers' logits against the model's own forward, for every family."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
)

from corellarec.base.errors import ModelError
from corellarec.config import LoraConfig
from corellarec.llm.load import AnswerModel
from corellarec.llm.lora import add_adapter

SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}
HEAD = {"head_dim": 8}
SPECIAL = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
GPT2 = GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3)
FAMILIES: dict[
    str, tuple[Any, Any]
] = {  # the catalog's are llama (SmolLM2, too), qwen2, qwen3, gemma2 and gemma3
    "llama": (LlamaForCausalLM, LlamaConfig(**SIZES)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SIZES)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SIZES, **HEAD)),
    "gemma2": (Gemma2ForCausalLM, Gemma2Config(**SIZES, **HEAD, final_logit_softcapping=2.0)),
    "gemma3": (
        Gemma3ForCausalLM,
        Gemma3TextConfig(**SIZES, **HEAD, final_logit_softcapping=2.0),
    ),
    "phi, whose head has a bias": (PhiForCausalLM, PhiConfig(**SIZES)),
    "cohere, which scales": (CohereForCausalLM, CohereConfig(**SIZES, **SPECIAL, logit_scale=0.1)),
    "granite, which divides": (GraniteForCausalLM, GraniteConfig(**SIZES, logits_scaling=6.0)),
    "gpt2": (GPT2LMHeadModel, GPT2),
}
ANSWERS = (5, 6)
IDS = torch.arange(40).view(2, 20) * 7 % 300


def build(kind, config, dtype=torch.float32):
    torch.manual_seed(0)
    model = kind(config).to(dtype).eval()
    head = model.get_output_embeddings()
    if head.bias is not None:
        nn.init.normal_(head.bias, std=5.0)
    return model


def own_logits(model):
    """``(40, 2)`` by the model's own forward."""
    with torch.inference_mode():
        return model(input_ids=IDS).logits.flatten(0, 1)[:, list(ANSWERS)].float()


def our_logits(model):
    answer_model = AnswerModel(model, ANSWERS)
    with torch.inference_mode():
        last = answer_model.base.get_decoder()(input_ids=IDS).last_hidden_state.flatten(0, 1)
        logits = answer_model.head(last)
        torch.testing.assert_close(answer_model.answer(last), logits[:, 1] - logits[:, 0])
    return answer_model, logits


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_rows_give_the_models_own_logits(name, dtype):
    expected = own_logits(build(*FAMILIES[name], dtype))
    answer_model, found = our_logits(build(*FAMILIES[name], dtype))
    assert answer_model.head.own is None
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


class Squared(LlamaForCausalLM):
    """An output layer that does what no other does."""

    def forward(self, *given, **named):
        out = super().forward(*given, **named)
        out.logits = out.logits + 0.1 * out.logits.square()
        return out


class Counting(LlamaForCausalLM):
    """Logits that depend on more than the last hidden states."""

    def forward(self, input_ids=None, inputs_embeds=None, **named):
        out = super().forward(input_ids=input_ids, inputs_embeds=inputs_embeds, **named)
        if input_ids is not None:
            out.logits = out.logits + input_ids.unsqueeze(2)
        return out


UNKNOWN: dict[str, Any] = {
    "square": (Squared, LlamaConfig(**SIZES)),
    "recurrent gemma, whose cap has another name": (
        RecurrentGemmaForCausalLM,
        RecurrentGemmaConfig(
            **(SIZES | {"num_hidden_layers": 3}),
            head_dim=8,  # pyright: ignore[reportCallIssue]
            lru_width=32,
            attention_window_size=32,
            logits_soft_cap=2.0,
        ),
    ),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_output_layer_is_the_models_own(name):
    expected = own_logits(build(*UNKNOWN[name]))
    answer_model, found = our_logits(build(*UNKNOWN[name]))
    assert answer_model.head.own is not None
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_the_own_output_layer_passes_gradients():
    model = build(*UNKNOWN["square"])
    head = AnswerModel(model, ANSWERS).head
    last = torch.randn(3, 32, requires_grad=True)
    head(last).sum().backward()
    logits = model.lm_head(last)[:, list(ANSWERS)]
    (expected,) = torch.autograd.grad((logits + 0.1 * logits.square()).sum(), last)
    torch.testing.assert_close(last.grad, expected)


def test_an_adapter_of_the_output_layer_counts():
    model = build(*FAMILIES["llama"])
    adapted = add_adapter(model, LoraConfig(rank=4, target_modules=("lm_head",)))
    answer_model = AnswerModel(adapted, ANSWERS).eval()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.5)
    with torch.inference_mode():
        last = answer_model.base.get_decoder()(input_ids=IDS).last_hidden_state.flatten(0, 1)
        found = answer_model.head(last)
    torch.testing.assert_close(found, own_logits(answer_model.base), atol=1e-4, rtol=1e-4)


def test_logits_that_depend_on_more_are_refused():
    with pytest.raises(ModelError, match="Counting cannot be computed from its last hidden states"):
        AnswerModel(build(Counting, LlamaConfig(**SIZES)), ANSWERS)


def test_the_test_pass_draws_no_random_number_and_keeps_the_mode():
    for name in ("gpt2", "llama"):  # GPT-2 has dropout
        model = build(*FAMILIES[name]).train()
        before = torch.get_rng_state()
        AnswerModel(model, ANSWERS)
        assert torch.equal(before, torch.get_rng_state())
        assert model.training
