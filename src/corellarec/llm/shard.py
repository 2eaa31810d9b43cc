"""Frozen weights divided among processes, for a model that does not fit one device."""

import torch
from peft import PeftModel
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from corellarec.base.errors import ConfigError


def shard(model: PeftModel, device: torch.device, processes: int) -> None:
    """Divide the frozen weights of a model's blocks among processes (FSDP2).

    Each process holds a part of every block, and gathers a block's weights when it computes there.
    The adapter stays whole in each: it is small, its gradients are added up as a CRM's are, and any
    process can save it. Embeddings and head stay whole, too.

    Args:
        model: With its adapter; on the CPU, from where its weights go to the device.
        device: This process's.
        processes: Their number.

    Raises:
        ConfigError: If the model has no list of blocks.
    """
    base: PreTrainedModel = model.get_base_model()  # pyright: ignore[reportAssignmentType]
    decoder = base.get_decoder()
    blocks = getattr(decoder, "layers", None)
    if blocks is None:
        raise ConfigError(f"llm.shard: {type(base).__name__} has no list of blocks: leave it out")
    plain = type(decoder)
    mesh = init_device_mesh(device.type, (processes,))
    adapter = {weight for name, weight in model.named_parameters() if "lora_" in name}
    in_blocks = {weight for block in blocks for weight in block.parameters()}
    for block in blocks:
        fully_shard(block, mesh=mesh, ignored_params=adapter)
    # The decoder gathers the next block while one computes; it holds no parts of its own.
    fully_shard(decoder, mesh=mesh, ignored_params=set(decoder.parameters()) - in_blocks | adapter)
    # transformers looks up what a model can return by the text of its class, which is another now.
    type(decoder).__module__, type(decoder).__qualname__ = plain.__module__, plain.__qualname__
    for tensor in (*model.parameters(), *model.buffers()):
        if not isinstance(tensor, DTensor):
            tensor.data = tensor.data.to(device)
