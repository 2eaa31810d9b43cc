"""Processes that work on one job under ``torchrun``: who does what, and how results come together.

Every function does nothing, or all of it, where there is one process.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from itertools import pairwise
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast
from torch import Tensor, nn

Item = TypeVar("Item")

PATIENCE = timedelta(hours=2)  # for what the first process does alone, such as preparing a log


def join_processes(device: torch.device) -> Accelerator:
    """This process among those that ``torchrun`` started, or alone."""
    patience = InitProcessGroupKwargs(timeout=PATIENCE)
    return Accelerator(cpu=device.type == "cpu", kwargs_handlers=[patience])


def parts_of_step(batches: Sequence[Any], rank: int, processes: int) -> list[tuple[Any, bool]]:
    """What one process reads of a step, in as many parts as every other.

    Batches stay whole where there are as many as processes; else each is split evenly.

    Args:
        batches: The step's, none empty.
        rank: The process.
        processes: Their number.

    Returns:
        Each part, and whether it counts: a process for which nothing is left reads a part of
        another's, since a model that is sharded needs all processes in every pass.

    Example:
        >>> parts_of_step(["abcd"], 1, 2)
        [('cd', True)]
        >>> parts_of_step(["ab", "cd", "ef"], 1, 2)
        [('cd', True), ('ab', False)]
    """
    pieces = math.ceil(processes / len(batches))
    bounds = [[len(one) * i // pieces for i in range(pieces + 1)] for one in batches]
    parts = [
        one[start:stop]
        for one, limits in zip(batches, bounds, strict=True)
        for start, stop in pairwise(limits)
        if stop > start
    ]
    own = [(part, True) for part in parts[rank::processes]]
    return own + [(parts[0], False)] * (math.ceil(len(parts) / processes) - len(own))


def in_rounds(
    batches: Sequence[Item], accelerator: Accelerator | None
) -> Iterator[tuple[Item, bool, Sequence[Item]]]:
    """Batches that processes compute beside each other, each another one.

    Yields this process's batch, whether it counts (as for :func:`parts_of_step`), and the batches
    of all processes in this round.
    """
    rank, processes = 0, 1
    if accelerator is not None:
        rank, processes = accelerator.process_index, accelerator.num_processes
    for first in range(0, len(batches), processes):
        together = batches[first : first + processes]
        counts = rank < len(together)
        yield together[rank if counts else 0], counts, together


def added_up(tensor: Tensor, accelerator: Accelerator | None) -> Tensor:
    """The sum of all processes' tensors of one shape, on the CPU."""
    if accelerator is None or accelerator.num_processes == 1:
        return tensor
    return accelerator.reduce(tensor.to(accelerator.device)).cpu()  # pyright: ignore


def as_in_first(values: dict[str, float], accelerator: Accelerator) -> dict[str, float]:
    """The first process's values, of the same names in all."""
    if accelerator.num_processes == 1:
        return values
    numbers = torch.tensor(list(values.values()), dtype=torch.float64, device=accelerator.device)
    broadcast(numbers)  # in place
    return dict(zip(values, numbers.tolist(), strict=True))


def take_from_first(tensors: Iterable[Tensor], accelerator: Accelerator) -> None:
    """Overwrite tensors with the first process's."""
    if accelerator.num_processes > 1:
        with torch.no_grad():
            broadcast([tensor.detach() for tensor in tensors])


def add_up_gradients(
    parameters: Iterable[nn.Parameter], more: Tensor, accelerator: Accelerator
) -> Tensor:
    """Add up all processes' gradients, in place, sparse ones too.

    Sparse ones are gathered row by row, which every backend can: NCCL adds up dense tensors only.

    Args:
        parameters: The same ones have a gradient in every process.
        more: ``(n,)`` floats that are added up with them.
        accelerator: The processes.

    Returns:
        The sum of ``more``.
    """
    if accelerator.num_processes == 1:
        return more
    dense = []
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is not None and gradient.is_sparse:
            parameter.grad = _gathered(gradient.coalesce(), accelerator)
        elif gradient is not None:
            dense.append(gradient)
    flat = torch.cat([more, *(gradient.flatten() for gradient in dense)])
    summed: Tensor = accelerator.reduce(flat)  # pyright: ignore[reportAssignmentType]
    more, *parts = summed.split([len(more), *(gradient.numel() for gradient in dense)])
    for gradient, part in zip(dense, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
    return more


def _gathered(gradient: Tensor, accelerator: Accelerator) -> Tensor:
    """The sum of all processes' sparse gradients of a table."""

    def gather(tensor: Tensor, padding: int) -> Tensor:
        padded = accelerator.pad_across_processes(tensor, pad_index=padding)
        return accelerator.gather(padded)  # pyright: ignore[reportReturnType]

    rows, values = gather(gradient.indices()[0], -1), gather(gradient.values(), 0)
    real = rows >= 0
    return torch.sparse_coo_tensor(
        rows[real].unsqueeze(0), values[real], gradient.shape, check_invariants=False
    ).coalesce()
