"""A run from its settings to a fitted cascade: the main path.

    prepare        the log: labels, splits, features
    stage 1        the CRM
    members        further networks of the CRM (if configured)
    stages 2, 3    both models, aligned; the language model
    distill        the CRM again, toward the language model's answers (if configured)
    scores         the language model's logits of validation rows
    fit            calibration, blend and router on validation data

Every step finds its result if it is there already, and is a function of a
:class:`~corellarec.run.workspace.Workspace`.
"""

from corellarec.cascade.fit import check_labels
from corellarec.run.distill import distill
from corellarec.run.fit import fit
from corellarec.run.members import train_members
from corellarec.run.prepare import prepare_log
from corellarec.run.scores import rows_to_score
from corellarec.run.stages import train_stage
from corellarec.run.workspace import Workspace


def run_steps(workspace: Workspace) -> None:
    """Train everything and fit the cascade.

    Under ``torchrun`` processes share training and the language model's scoring; the first one
    alone prepares the log and fits the router.

    Raises:
        CorellarecError: If the data, the settings or a model cannot be used, or another process
            works in the directory.
    """
    with workspace.alone():
        workspace.start()
        prepare_log(workspace)
        check_inputs(workspace)
        train_models(workspace)
        fit(workspace)


def train_models(workspace: Workspace) -> None:
    """Train both models through all stages, or find them done."""
    train_stage(workspace, 1)
    train_members(workspace)
    train_stage(workspace, 2)
    train_stage(workspace, 3)
    distill(workspace)


def check_inputs(workspace: Workspace) -> None:
    """Read what later steps need, so that errors come before minutes of training."""
    with workspace.accelerator.main_process_first():
        _ = workspace.layout
    if workspace.adapter:
        workspace.adapter.check(workspace.config.llm, workspace.log)
    if workspace.is_external:
        _ = workspace.external_logits
    rows = rows_to_score(workspace, "validation", workspace.config.cascade.validation_rows)
    check_labels(workspace.log.labels(rows).numpy(), "validation rows that both models score")
