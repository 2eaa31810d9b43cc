"""What the benchmarks of the language model share: a model, prompts, the naive recipe, FLOPs."""

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
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
from corellarec.config import LlmConfig, load_config
from corellarec.data.log import Log
from corellarec.data.prepare import prepare
from corellarec.llm.layout import TokenSequence
from corellarec.llm.load import load_model, load_tokenizer

NAIVE_BATCH = 16
SMOLLM2 = "smollm2-135m-instruct"


@dataclass
class Setting:
    """What is measured, and on what."""

    log: Log
    config: LlmConfig
    new_model: Callable[[], PreTrainedModel]
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    dtype: torch.dtype
    rounds: int
    rows: int
    as_json: bool


def setting(description: str, rows: int) -> Setting:
    """Parse the command line, prepare MovieLens-100K."""
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--model", default=SMOLLM2, help="what llm.model takes")
    parser.add_argument("--llama-7b", action="store_true", help="random weights in that shape")
    parser.add_argument("--data", help="what data.path takes; the default is fetched")
    parser.add_argument("--rows", type=int, default=rows, help="samples")
    parser.add_argument("--rounds", type=int, default=3, help="the best counts")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--dtype", default="auto", help="auto, bfloat16 or float32")
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")
    given = parser.parse_args()
    device = pick_device(given.device)
    dtype = pick_dtype(given.dtype, device)
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"data.path={given.data}"] if given.data else []
        prepare(load_config(settings=paths).data, Path(folder) / "data")
        log = Log.load(Path(folder) / "data")

    def new_model() -> PreTrainedModel:
        if not given.llama_7b:
            return load_model(given.model, dtype, device)[0]
        with device:
            shape = LlamaConfig(vocab_size=49152)  # 7B by default; the tokenizer is SmolLM2's
            return AutoModelForCausalLM.from_config(shape, dtype=dtype).eval()

    return Setting(
        log=log,
        config=LlmConfig(title_year=False),
        new_model=new_model,
        tokenizer=load_tokenizer(given.model),
        device=device,
        dtype=dtype,
        rounds=given.rounds,
        rows=given.rows,
        as_json=given.json,
    )


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


def gemm_rate(setting: Setting) -> float:
    """FLOP/s of the best of ten products of a model's size."""
    a, b = (
        torch.randn(4096, 2048, dtype=setting.dtype, device=setting.device).T.contiguous()
        for _ in range(2)
    )
    seconds = min(timed(lambda: a @ b.T, setting.device) for _ in range(10))
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


def show(setting: Setting, rows: list[dict[str, Any]], unit: str, rate: float) -> None:
    """Print the table, the first row the naive recipe; and with ``--json`` the figures."""
    naive = rows[0][unit]
    print(f"{'':44} {unit:>14} {'tokens/sample':>14} {'tokens/s':>10} {'of GEMM':>8}")
    for row in rows:
        share = f"{row['flops'] / rate:7.0%}" if row.get("flops") else ""
        print(
            f"{row['name']:44} {row[unit]:14,.1f} {row['tokens_per_sample']:14.1f} "
            f"{row['tokens/s']:10,.0f} {share:>8}  {row[unit] / naive:5.1f} x"
        )
    print(f"GEMM: {rate / 1e9:,.0f} GFLOP/s in {str(setting.dtype).removeprefix('torch.')}")
    if setting.device.type == "cuda":
        print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
    if setting.as_json:
        ratio = max(row[unit] for row in rows) / naive
        print(json.dumps({"ratio": ratio, "metric": unit, "gemm": rate, "rows": rows}))


def figures(
    name: str, unit: str, samples: int, seconds: float, tokens: int, flops: float = 0.0
) -> dict[str, Any]:
    """One row of a table."""
    return {
        "name": name,
        unit: samples / seconds,
        "tokens_per_sample": tokens / samples,
        "tokens/s": tokens / seconds,
        "flops": flops / seconds,
    }
