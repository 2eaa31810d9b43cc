"""What the benchmarks of the language model share: a model, prompts, the naive recipe, FLOPs."""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from corellarec.base.device import pick_device, pick_dtype
from corellarec.config import LlmConfig
from corellarec.data.log import Log
from corellarec.llm.load import load_model, load_tokenizer
from corellarec.llm.sequence import TokenSequence
from harness import emit, median_ratio, parse, parser
from logs import add_data_option, data_settings, prepared_log

NAIVE_BATCH = 16
SMOLLM2 = "smollm2-135m-instruct"


@dataclass(frozen=True)
class Setting:
    """What is measured, and on what.

    Args:
        given: The command line.
        log: The prepared log.
        config: How samples become text.
        new_model: Loads the model.
        tokenizer: The model's.
        device: Where the model computes.
        dtype: In what it computes.
    """

    given: argparse.Namespace
    log: Log
    config: LlmConfig
    new_model: Callable[[], PreTrainedModel]
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True)
class Pass:
    """What one pass over the samples took.

    Args:
        samples: Samples, or candidates.
        seconds: Time.
        tokens: Tokens that the model read.
        flops: FLOPs that takes, 0 where it is not counted.
    """

    samples: int
    seconds: float
    tokens: int
    flops: float = 0.0


def setting(
    description: str | None, *, rows: int, peer_rows: int, quick: Mapping[str, int]
) -> Setting:
    """Parse the command line, prepare the log.

    Args:
        description: Docstring of the script.
        rows: Samples.
        peer_rows: Those among them that the naive recipe reads.
        quick: Both, and the rounds, under ``--quick``.
    """
    warnings.filterwarnings("ignore")
    options = parser(description, rounds=3)
    add_data_option(options)
    options.add_argument("--implicit", action="store_true", help="positives and drawn negatives")
    options.add_argument("--model", default=SMOLLM2, help="what llm.model takes")
    options.add_argument("--llama-7b", action="store_true", help="random weights in that shape")
    options.add_argument("--rows", type=int, default=rows, help="samples")
    options.add_argument(
        "--peer-rows", type=int, default=peer_rows, help="those that the naive recipe reads"
    )
    options.add_argument("--device", default="auto", help="auto, cpu or cuda")
    options.add_argument("--dtype", default="auto", help="auto, bfloat16 or float32")
    given = parse(options, quick=quick)
    device = pick_device(given.device)
    dtype = pick_dtype(given.dtype, device)
    implicit = ["data.implicit=true"] if given.implicit else []
    _, log = prepared_log([*data_settings(given), *implicit])

    def new_model() -> PreTrainedModel:
        if not given.llama_7b:
            return load_model(given.model, dtype, device)[0]
        with device:
            shape = LlamaConfig(vocab_size=49152)  # 7B by default; the tokenizer is SmolLM2's
            return AutoModelForCausalLM.from_config(shape, dtype=dtype).eval()

    return Setting(
        given=given,
        log=log,
        config=LlmConfig(title_year=False),
        new_model=new_model,
        tokenizer=load_tokenizer(given.model),
        device=device,
        dtype=dtype,
    )


def spread(count: int, wanted: int) -> torch.Tensor:
    """At most as many numbers below a count as wanted, evenly spread."""
    return torch.arange(0, count, max(1, count // wanted))[:wanted]


def naive_batches(
    prompts: Sequence[TokenSequence], device: torch.device
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Ids, mask and the last places of 16 prompts at a time, in their order, padded."""
    for start in range(0, len(prompts), NAIVE_BATCH):
        some = prompts[start : start + NAIVE_BATCH]
        ids = torch.zeros(len(some), max(len(one.ids) for one in some), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, one in enumerate(some):
            ids[row, : len(one.ids)] = torch.from_numpy(one.ids)
            mask[row, : len(one.ids)] = 1
        yield ids.to(device), mask.to(device), mask.sum(1) - 1


def gemm_rate(dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of the best of ten products of a model's size."""
    a, b = (torch.randn(4096, 2048, dtype=dtype, device=device).T.contiguous() for _ in range(2))
    seconds = min(timed(lambda: a @ b.T, device) for _ in range(10))
    return 2 * 2048 * 2048 * 4096 / seconds


def flops(model: PreTrainedModel, lengths: Sequence[int], *, training: bool = False) -> float:
    """FLOPs that reading sequences of these lengths takes, or training an adapter on them.

    Two for each weight of the blocks and token; attention by the tokens that are read. Backward
    as much again for the weights, which are frozen, and twice as much for attention.
    """
    config = model.config
    blocks: Any = model.get_decoder().layers
    frozen = sum(p.numel() for n, p in blocks.named_parameters() if "lora" not in n)
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    weights = 2.0 * frozen * sum(lengths)
    attention = 2.0 * config.num_hidden_layers * width * sum(n * n for n in lengths)
    return 2 * weights + 3 * attention if training else weights + attention


def timed(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds that work takes."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def report(
    setting: Setting,
    passes: Mapping[str, Sequence[Pass]],
    *,
    naive: str,
    ours: str,
    unit: str,
    **extra: float,
) -> None:
    """Print the table, medians of the rounds, and emit the ratio of ours to the naive recipe.

    Args:
        setting: What was measured.
        passes: Each way's passes, one a round.
        naive: The peer among them.
        ours: The way that the ratio is for.
        unit: What a second is divided into, such as ``samples/s``.
        **extra: Further figures of the JSON object.
    """
    rate = gemm_rate(setting.dtype, setting.device)
    ways: list[dict[str, Any]] = []
    rates = {name: [one.samples / one.seconds for one in some] for name, some in passes.items()}
    print(f"{'':44} {unit:>14} {'tokens/sample':>14} {'tokens/s':>10} {'of GEMM':>8}")
    for name, some in passes.items():
        first, seconds = some[0], statistics.median(one.seconds for one in some)
        way = {
            "name": name,
            unit: first.samples / seconds,
            "tokens_per_sample": first.tokens / first.samples,
            "tokens/s": first.tokens / seconds,
            "gemm_share": first.flops / seconds / rate if first.flops else None,
            "ratio": median_ratio(rates[name], rates[naive]),
        }
        ways.append(way)
        share = f"{way['gemm_share']:7.0%}" if first.flops else ""
        print(
            f"{name:44} {way[unit]:14,.1f} {way['tokens_per_sample']:14.1f} "
            f"{way['tokens/s']:10,.0f} {share:>8}  {way['ratio']:5.1f} x"
        )
    print(f"GEMM: {rate / 1e9:,.0f} GFLOP/s in {str(setting.dtype).removeprefix('torch.')}")
    if setting.device.type == "cuda":
        extra["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        print(f"peak memory: {extra['peak_memory_gib']:.1f} GiB")
    emit(
        setting.given,
        {"unit": unit, "gemm_flops": rate, "ways": ways, **extra},
        ratio=median_ratio(rates[ours], rates[naive]),
        ratio_of=f"{unit} of '{ours}' over '{naive}'",
    )
