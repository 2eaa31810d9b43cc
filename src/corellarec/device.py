"""What a device computes fast in."""

import torch


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
