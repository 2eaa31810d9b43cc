"""LLaMA-2-7B on one packed batch: scored, read again one by one, and tuned for one step.

The architecture is the real one at full size, and its weights are random: what is measured is
memory, speed, and that packed rows compute what single ones do. Token ids are another tokenizer's,
those beyond LLaMA's 32,000 folded into them, unless ``--tokenizer`` names LLaMA's.

    python benchmarks/llama_7b.py [--blocks N] [--tokens N] [--checkpointing] [--tokenizer NAME]
        [--data PATH] [--device cuda] [--quick] [--json]

All 32 blocks take 13.5 GB of memory, and some more for activations; ``--quick`` takes two blocks.
"""

import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import LlamaConfig, LlamaForCausalLM

from corellarec.base.device import pick_device
from corellarec.config import LlmConfig, LoraConfig
from corellarec.llm.attention import Block
from corellarec.llm.count import paper_tokens
from corellarec.llm.layout import build_layout
from corellarec.llm.load import AnswerModel, load_tokenizer
from corellarec.llm.lora import add_adapter
from corellarec.llm.sequence import TokenSequence
from harness import emit, parse, parser, peak_memory_mb
from llm import SMOLLM2, flops, gemm_rate, timed
from logs import add_data_option, data_settings, prepared_log

LLAMA = LlamaConfig(vocab_size=32000)  # transformers' defaults are LLaMA-2-7B's
PAPER_ROWS = 300  # test rows whose prompts are counted
SPREAD = 0.02 * 3**0.5  # a uniform distribution of LLaMA's standard deviation


def main() -> None:
    warnings.filterwarnings("ignore")
    options = parser(__doc__)
    add_data_option(options)
    options.add_argument("--blocks", type=int, default=LLAMA.num_hidden_layers, help="of 32")
    options.add_argument("--tokens", type=int, default=1024, help="of the batch")
    options.add_argument("--checkpointing", action="store_true", help="as llm.checkpointing")
    options.add_argument("--tokenizer", default=SMOLLM2, help="what llm.model takes")
    options.add_argument("--device", default="auto", help="auto, cpu or cuda")
    given = parse(options, quick={"blocks": 2})
    device = pick_device(given.device)
    config = LlmConfig(title_year=False)
    _, log = prepared_log(data_settings(given))
    tokenizer = load_tokenizer(given.tokenizer)
    layout = build_layout(config, log, tokenizer)
    samples = log.samples(log.rows_of("test"))
    sequences = folded(layout.encode(samples))
    stream = sum(one.length for one in sequences) / len(samples)
    paper = (
        paper_tokens(config, log, tokenizer, samples[:: max(1, len(samples) // PAPER_ROWS)]) or 0.0
    )
    print(f"tokens a row: {stream:.1f} in the stream, {paper:.1f} in the paper's prompt")

    answers = tuple(token % LLAMA.vocab_size for token in layout.answers)
    base = random_llama(given.blocks, device)
    parameters = sum(weight.numel() for weight in base.parameters())
    model = AnswerModel(add_adapter(base, LoraConfig()), answers, given.checkpointing)
    assert model.packs
    together = max(model.groups(sequences, given.tokens), key=len)  # most sequences in one row
    figures = {
        "blocks": given.blocks,
        "parameters": parameters,
        "weights_gib": 2 * parameters / 2**30,
        "stream_tokens_per_row": stream,
        "paper_tokens_per_row": paper,
        "gemm_flops": gemm_rate(torch.bfloat16, device),
        **score(model, together, device),
        **tune(model, together, device),
    }
    for way in ("score", "tune"):
        figures[f"{way}_of_gemm"] = figures.pop(f"{way}_flops") / figures["gemm_flops"]
    figures["memory_gib"] = (
        torch.cuda.max_memory_allocated() / 2**30
        if device.type == "cuda"
        else peak_memory_mb() / 1024
    )
    figures["largest_difference_fp32"] = difference_in_fp32(model, together)
    for name, value in figures.items():
        print(f"{name:28} {value:,.6g}")
    emit(given, figures)


def folded(sequences: Iterable[TokenSequence]) -> list[TokenSequence]:
    """Sequences of ids that LLaMA has; those that continue one sequence still do."""
    made: dict[int, TokenSequence] = {}

    def fold(one: TokenSequence) -> TokenSequence:
        if id(one) not in made:
            after = one.after and fold(one.after)
            made[id(one)] = replace(one, ids=one.ids % LLAMA.vocab_size, after=after)
        return made[id(one)]

    return [fold(one) for one in sequences]


def random_llama(blocks: int, device: torch.device) -> LlamaForCausalLM:
    """Some blocks of LLaMA-2-7B in bfloat16, each weight drawn in place."""
    shape = LlamaConfig(vocab_size=LLAMA.vocab_size, num_hidden_layers=blocks)
    with torch.device("meta"):
        model = LlamaForCausalLM._from_config(shape, dtype=torch.bfloat16)
    model = model.to_empty(device=device)
    rotary = model.model.rotary_emb
    model.model.rotary_emb = type(rotary)(shape).to(device)  # its frequencies are no weights
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.fill_(1)
            else:
                weight.uniform_(-SPREAD, SPREAD, generator=generator)
    return model.eval()


@torch.no_grad()
def score(
    model: AnswerModel, together: Sequence[TokenSequence], device: torch.device
) -> dict[str, float]:
    """Read a packed batch, its sequences one by one, and as if they were a single one."""
    batch, lengths = model.batch(together), [one.length for one in together]
    model(batch)  # allocates
    seconds = timed(lambda: model(batch), device)
    alone = torch.cat([model(model.batch([one])).logit for one in together])
    packed = model(batch).logit
    joined = model(replace(batch, blocks=(Block(0, (batch.tokens,)),))).logit
    gap = (packed.sigmoid() - alone.sigmoid()).abs()
    return {
        "tokens": batch.tokens,
        "sequences": len(together),
        "answers": len(packed),
        "score_seconds": seconds,
        "score_tokens_per_s": batch.tokens / seconds,
        "score_flops": flops(model.base, lengths) / seconds,
        "largest_difference": float(gap.max()),
        "mean_difference": float(gap.mean()),
        "difference_if_joined": float((joined.sigmoid() - alone.sigmoid()).abs().max()),
    }


def tune(
    model: AnswerModel, together: Sequence[TokenSequence], device: torch.device
) -> dict[str, float]:
    """One step of the adapter on a packed batch; what it keeps for the pass backward."""
    batch, lengths = model.batch(together), [one.length for one in together]
    label = torch.randint(2, (len(batch.sample),), generator=torch.Generator().manual_seed(0))
    label = label.float().to(device)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, 1e-3)
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def loss() -> Tensor:
        return binary_cross_entropy_with_logits(model(batch).logit, label)

    model.train()
    start = time.perf_counter()
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        before = loss()
    before.backward()
    optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    model.eval()
    with torch.no_grad():
        after = float(loss())
    return {
        "trained_parameters": sum(weight.numel() for weight in trained),
        "tune_seconds": seconds,
        "tune_tokens_per_s": batch.tokens / seconds,
        "tune_flops": flops(model.base, lengths, training=True) / seconds,
        "kept_mib_per_token": sum(kept.values()) / batch.tokens / 2**20,
        "loss_before": float(before.detach()),
        "loss_after": after,
    }


@torch.no_grad()
def difference_in_fp32(model: AnswerModel, together: Sequence[TokenSequence]) -> float:
    """Largest difference of a logit, packed and one by one, of two blocks in float32."""
    decoder: Any = model.base.get_decoder()
    decoder.layers = decoder.layers[:2]
    model.float()
    alone = torch.cat([model(model.batch([one])).logit for one in together])
    return float((model(model.batch(together)).logit - alone).abs().max())


if __name__ == "__main__":
    main()
