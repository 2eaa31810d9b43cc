"""Trained weights of a run's models, read from the directories of its steps."""

from pathlib import Path

import torch
from accelerate.utils import set_seed
from torch import Tensor, nn

from corellarec.base.artifacts import read_json
from corellarec.base.errors import ConfigError
from corellarec.config import NetworkConfig
from corellarec.crm.batch import Reader
from corellarec.crm.build import build_network, build_reader
from corellarec.crm.ensemble import Blended, Ensemble
from corellarec.crm.score import crm_logits
from corellarec.run.records import finished_step
from corellarec.run.status import final_step
from corellarec.run.workspace import Workspace
from corellarec.train.checkpoint import load_tensors, load_trainable

BLEND = "blend.json"


def new_network(workspace: Workspace, config: NetworkConfig, seed: int) -> nn.Module:
    """A network with fresh weights, drawn from a seed."""
    set_seed(seed)
    return build_network(config, workspace.log.features, workspace.device)


def new_crm(workspace: Workspace) -> nn.Module:
    """The CRM's first network with fresh weights, drawn from the run's seed."""
    return new_network(workspace, workspace.config.crm.networks[0], workspace.config.seed)


def trained_crm(workspace: Workspace, stage: int) -> nn.Module:
    """The CRM's first network as stage 1 or 2 left it.

    Where stage 2 is not part of the run, stage 1's weights stand in.
    """
    return _network(workspace, 0, "stage2" if workspace.trains(2) and stage == 2 else "stage1")


def final_networks(workspace: Workspace) -> list[nn.Module]:
    """The CRM's networks, each as it is used in the end."""
    config = workspace.config
    return [
        _network(workspace, number, final_step(config, number))
        for number in range(len(config.crm.networks))
    ]


def _network(workspace: Workspace, number: int, step: str) -> nn.Module:
    crm = new_network(workspace, workspace.config.crm.networks[number], workspace.config.seed)
    load_part(crm, workspace.directory / step, workspace.step_key(step), "crm.")
    return crm.eval()


def final_crm(workspace: Workspace) -> tuple[nn.Module, Reader]:
    """The CRM as it is used in the end, and what makes its batches."""
    networks = final_networks(workspace)
    reader = build_reader(workspace.config.crm, workspace.log, workspace.device)
    if len(networks) == 1:
        return networks[0], reader
    directory = workspace.directory / "members"
    finished_step(directory, workspace.step_key("members"))
    blended = read_json(directory / BLEND, Blended)
    crm = Ensemble(networks, blended.weights, blended.bias)
    return crm.to(workspace.device).eval(), reader


def load_tuned_adapter(workspace: Workspace) -> None:
    """Put the last trained adapter into the workspace's language model."""
    for stage in (3, 2):
        if workspace.trains(stage):
            name = f"stage{stage}"
            load_part(workspace.llm, workspace.directory / name, workspace.step_key(name), "llm.")
            return


def load_part(module: nn.Module, directory: Path, key: str, prefix: str) -> None:
    """Put a step's trained weights, those whose names begin with ``prefix``, into a module.

    Raises:
        ArtifactError: If the directory is missing or damaged, has another key, or does not fit the
            module.
    """
    finished_step(directory, key)
    state = load_tensors(directory, "model")
    part = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
    load_trainable(module, part, directory)


def final_crm_logits(workspace: Workspace, rows: Tensor) -> Tensor:
    """``(n,)`` fp32: the final CRM's logit of validation or test rows."""
    if workspace.is_external:
        return workspace.external_logits[rows]
    return crm_logits(*final_crm(workspace), workspace.log.samples(rows))


def stage1_logits(workspace: Workspace) -> Tensor:
    """``(rows of the log,)`` logits of the CRM of stage 1.

    Raises:
        ConfigError: If the CRM is external, whose scores of training rows are not known.
    """
    if workspace.is_external:
        raise ConfigError("subset = 'uncertain' needs a CRM that is trained here")
    every_row = workspace.log.samples(torch.arange(len(workspace.log)))
    return crm_logits(trained_crm(workspace, stage=1), workspace.reader, every_row)
