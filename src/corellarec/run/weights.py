"""Trained weights of a run's models, read from the directories of its steps."""

from pathlib import Path

import torch
from accelerate.utils import set_seed
from torch import Tensor, nn

from corellarec.base.errors import ConfigError
from corellarec.crm.build import build_crm
from corellarec.crm.score import crm_logits
from corellarec.run.records import finished_step
from corellarec.run.workspace import Workspace
from corellarec.train.checkpoint import load_tensors, load_trainable


def new_crm(workspace: Workspace) -> nn.Module:
    """A CRM with fresh weights, drawn from the run's seed."""
    set_seed(workspace.config.seed)
    return build_crm(workspace.config.crm, workspace.log.features, workspace.device)


def trained_crm(workspace: Workspace, stage: int | None = None) -> nn.Module:
    """The CRM as stage 1 or 2 left it, or, without a stage, as it is used in the end.

    Where stage 2 is not part of the run, stage 1's weights stand in.
    """
    name = "stage2" if workspace.trains(2) and stage != 1 else "stage1"
    if stage is None and workspace.config.distill.rows:
        name = "distilled"
    crm = new_crm(workspace)
    load_part(crm, workspace.directory / name, workspace.step_key(name), "crm.")
    return crm.eval()


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
    return crm_logits(trained_crm(workspace), workspace.reader, workspace.log.samples(rows))


def stage1_logits(workspace: Workspace) -> Tensor:
    """``(rows of the log,)`` logits of the CRM of stage 1.

    Raises:
        ConfigError: If the CRM is external, whose scores of training rows are not known.
    """
    if workspace.is_external:
        raise ConfigError("subset = 'uncertain' needs a CRM that is trained here")
    every_row = workspace.log.samples(torch.arange(len(workspace.log)))
    return crm_logits(trained_crm(workspace, stage=1), workspace.reader, every_row)
