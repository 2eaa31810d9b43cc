"""Checkpoints: safetensors and a manifest, nothing that can run code."""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from corellarec.base.artifacts import read_manifest, writing
from corellarec.base.errors import ArtifactError
from corellarec.base.stored import read_tensors
from corellarec.llm.load import AnswerModel


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and persistent buffer that training changes, on the CPU.

    Buffers, such as the statistics of a batch normalisation, are those of all modules but the
    language model, whose buffers are constants. A tensor that is on the CPU already is no copy.
    """
    return {name: tensor.detach().cpu().contiguous() for name, tensor in _trained(model).items()}


def _trained(model: nn.Module) -> dict[str, Tensor]:
    """What training changes, by name."""
    trained: dict[str, Tensor] = {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    constant = tuple(
        f"{name}." if name else ""
        for name, module in model.named_modules()
        if isinstance(module, AnswerModel)
    )
    persistent = model.state_dict().keys()
    return trained | {
        name: buffer
        for name, buffer in model.named_buffers()
        if name in persistent and not name.startswith(constant)
    }


def copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state that no longer changes with its model."""
    return {name: tensor.clone() for name, tensor in state.items()}


def load_trainable(model: nn.Module, state: dict[str, Tensor], place: Path | str) -> None:
    """Copy a state made by :func:`trainable_state` into the model.

    Raises:
        ArtifactError: If names or shapes do not match; ``place`` says where the state came from.
    """
    own = _trained(model)
    if own.keys() != state.keys():
        odd = sorted(own.keys() ^ state.keys())
        raise ArtifactError(
            f"{place}: does not fit the configured model (first difference: {odd[0]})"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            if tensor.shape != state[name].shape:
                raise ArtifactError(
                    f"{place}: {name} has shape {tuple(state[name].shape)}, the configured model "
                    f"{tuple(tensor.shape)}"
                )
            tensor.copy_(state[name])


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors by ``parameter number.name``, on the CPU; not always copies."""
    return {
        f"{number}.{name}": torch.as_tensor(value).detach().cpu().contiguous()
        for number, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Tensor]) -> None:
    """Put tensors made by :func:`optimizer_state` back."""
    whole = optimizer.state_dict()
    whole["state"] = {}
    for key, value in state.items():
        number, name = key.split(".")
        whole["state"].setdefault(int(number), {})[name] = value
    optimizer.load_state_dict(whole)


def save_tensors(directory: Path, groups: dict[str, dict[str, Tensor]], facts: Any) -> None:  # noqa: ANN401 (any JSON)
    """Write groups of tensors, one safetensors file each, into a new directory."""
    with writing(directory, facts) as unfinished:
        for name, tensors in groups.items():
            save_file(tensors, unfinished / f"{name}.safetensors")


def load_tensors(directory: Path, name: str) -> dict[str, Tensor]:
    """One group of tensors of a checked directory.

    Raises:
        ArtifactError: If the file is missing or not safetensors.
    """
    return read_tensors(directory / f"{name}.safetensors")


class Progress:
    """Checkpoints within a stage: the newest whole one counts, older ones are removed.

    Args:
        directory: Holds ``step-NUMBER`` directories.
        key: Identifies what is trained; checkpoints of another key are not continued.
    """

    def __init__(self, directory: Path, key: str) -> None:
        self.directory, self.key = directory, key

    def save(self, step: int, groups: dict[str, dict[str, Tensor]], facts: dict[str, Any]) -> None:
        """Write the checkpoint of a step, then remove the ones before it."""
        target = self.directory / f"step-{step:08d}"
        if target.exists():
            return
        save_tensors(target, groups, facts | {"step": step, "key": self.key})
        for path in self.directory.iterdir():
            if path != target:
                shutil.rmtree(path)

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint and its facts; damaged ones are skipped."""
        for path in sorted(self.directory.glob("step-*"), reverse=True):
            try:
                facts = read_manifest(path)
            except ArtifactError:
                continue
            if facts["key"] == self.key:
                return path, facts
        return None

    def clear(self) -> None:
        """Remove all of them."""
        shutil.rmtree(self.directory, ignore_errors=True)
