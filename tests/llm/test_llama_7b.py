"""The preset of LLaMA-2-7B, on the meta device: no weight is allocated."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from corellarec.config import load_config
from corellarec.llm.attention import NAME, Block, Plan
from corellarec.llm.catalog import KNOWN_MODELS
from corellarec.llm.lora import add_adapter

GIB = 2**30


@pytest.fixture(scope="module")
def config():
    return load_config(preset="llama-2-7b")


@pytest.fixture(scope="module")
def model():
    """The architecture of meta-llama/Llama-2-7b-chat-hf."""
    shape = LlamaConfig(
        vocab_size=32000,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
    )
    with torch.device("meta"):
        return LlamaForCausalLM._from_config(shape, dtype=torch.bfloat16)


def test_it_is_the_known_model(config, model):
    assert vars(KNOWN_MODELS[config.llm.model])["repository"] == "meta-llama/Llama-2-7b-chat-hf"
    assert sum(weight.numel() for weight in model.parameters()) == 6_738_415_616


def test_it_is_ml_1m_with_another_language_model(config):
    base = load_config(preset="ml-1m")
    assert config.model_dump(include={"data", "crm", "stage1"}) == base.model_dump(
        include={"data", "crm", "stage1"}
    )
    for stage in ("stage2", "stage3"):
        more = {"learning_rate", "tokens_per_batch"}
        one, other = getattr(config, stage), getattr(base, stage)
        assert one.model_dump(exclude=more) == other.model_dump(exclude=more)


def test_its_longest_sequences_fit(config, model):
    """A window's lines with the longest titles, and the tokens of a batch."""
    assert config.llm.window * 50 <= model.config.max_position_embeddings
    assert config.stage3.tokens_per_batch >= model.config.max_position_embeddings


def test_a_packed_batch_passes_through_it(config, model):
    adapted: Any = add_adapter(model, config.llm.lora)
    shapes = {
        tuple(weight.shape) for name, weight in adapted.named_parameters() if "lora_A" in name
    }
    trained = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    assert shapes == {(8, 4096)}
    assert trained == 32 * 2 * 2 * 8 * 4096
    base = adapted.get_base_model()
    base.set_attn_implementation(NAME)
    tokens = config.stage3.tokens_per_batch
    row = torch.zeros(1, tokens, dtype=torch.long, device="meta")
    lengths = (1000, tokens - 1000)
    out = base.get_decoder()(
        input_ids=row,
        position_ids=row,
        use_cache=False,
        plan=Plan([Block(0, lengths[:1]), Block(1000, lengths[1:])]),
    )
    assert out.last_hidden_state.shape == (1, tokens, 4096)
    weights = sum(weight.nbytes for weight in adapted.parameters())
    states = 3 * 4 * trained  # gradients and AdamW's moments
    assert (weights + states) / GIB == pytest.approx(12.6, abs=0.1)
