"""Where models run, and what computes fast there."""

import os

import torch

from corellarec.base.errors import ConfigError

# A kernel is kept for each shape that a matrix product had, 1,024 of them by default, by oneDNN and
# again by torch. Batches of a language model differ in length, and the kernels of 300 lengths hold
# 187 MiB for one layer. 64 are more than the shapes of a step, and scoring takes the same time.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
os.environ.setdefault("LRU_CACHE_CAPACITY", "64")


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The torch type of a name; ``auto`` is bf16 where the device computes in it, else fp32."""
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        fast = capabilities.get("avx512_bf16", False) or capabilities.get("amx_bf16", False)
    return torch.bfloat16 if fast else torch.float32


def pick_device(name: str) -> torch.device:
    """The device of ``cpu``, ``cuda``, or ``auto``: a GPU where there is one.

    Raises:
        ConfigError: If ``cuda`` is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device = 'cuda': this machine has none; use 'auto' or 'cpu'")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
