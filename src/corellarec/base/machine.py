"""The machine: what a figure was made with, and its memory."""

import ctypes
import os
import platform
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version

import torch


@dataclass(frozen=True)
class Versions:
    """Versions of this package and of those that compute."""

    corellarec: str
    torch: str
    transformers: str
    peft: str


@dataclass(frozen=True)
class Machine(Versions):
    """A device and the versions in use.

    Args:
        device: ``cpu`` or ``cuda``.
        name: The processor's or the GPU's.
        cores: Processor cores, or None where unknown.
    """

    device: str
    name: str
    cores: int | None


def versions() -> Versions:
    """Versions in use."""
    return Versions(**{name: version(name) for name in Versions.__dataclass_fields__})


def machine(device: torch.device) -> Machine:
    """A device and the versions in use."""
    name = platform.processor() or platform.machine()
    if device.type == "cpu":
        name = str(torch.cpu.get_capabilities().get("cpu_name", name))
    elif device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return Machine(**asdict(versions()), device=device.type, name=name, cores=os.cpu_count())


def release_memory() -> None:
    """Give freed memory back to the system, which glibc keeps; other C libraries do it alone."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
