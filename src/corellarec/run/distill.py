"""The language model teaches the CRM: stage 1 again, toward labels mixed with its answers."""

import shutil
from dataclasses import dataclass

import torch
from torch import Tensor

from corellarec.base.artifacts import writing
from corellarec.base.calibrate import fit_logistic
from corellarec.base.metrics import Floats
from corellarec.cascade.policy import known
from corellarec.crm.score import crm_logits
from corellarec.run.scores import llm_logits, score
from corellarec.run.stages import read_state, stage_seed, train_into
from corellarec.run.weights import new_crm, trained_crm
from corellarec.run.workspace import Workspace
from corellarec.train.distill import Gate, Lesson, soft_targets
from corellarec.train.stages import CrmTask


@dataclass(frozen=True)
class Distilled:
    """Which CRM the distillation kept.

    Args:
        weight: The language model's share in the targets; 0 is the CRM as it was before.
        validation_log_loss: Of each weight that was tried, the weight as text; empty where
            distillation is not part of the run.
    """

    weight: float = 0.0
    validation_log_loss: dict[str, float] | None = None


def distill(workspace: Workspace) -> Distilled:
    """Train the CRM on labels mixed with the language model's answers, or find it done.

    The weight with the lowest validation log loss is kept, the CRM before among them.
    """
    settings, directory = workspace.config.distill, workspace.directory / "distilled"
    if settings.rows == 0 or workspace.is_external:
        return Distilled()
    key = workspace.step_key("distilled")
    if (facts := workspace.done(directory, key)) is not None:
        return Distilled(facts["weight"], facts["validation_log_loss"])
    before = 2 if workspace.trains(2) else 1
    losses = {0.0: read_state(workspace, f"stage{before}").best["crm."]}
    where = {0.0: workspace.directory / f"stage{before}"}
    for weight in settings.weights:
        where[weight] = workspace.directory / "distilling" / f"weight-{weight}"
        state = train_into(
            workspace,
            where[weight],
            workspace.key("distill", workspace.config.cascade.validation_rows, weight),
            lambda weight=weight: _task(workspace, weight),
            workspace.config.stage1,
            title=f"distillation, weight {weight}: the CRM alone",
            seed=stage_seed(workspace, 1),
        )
        losses[weight] = state.best["crm."]
    best = min(losses, key=lambda weight: losses[weight])
    found = Distilled(best, {str(weight): loss for weight, loss in losses.items()})
    if workspace.accelerator.is_main_process:
        with writing(directory, {"kind": "distilled", "key": key, **vars(found)}) as unfinished:
            shutil.copy(where[best] / "model.safetensors", unfinished / "model.safetensors")
        shutil.rmtree(workspace.directory / "distilling")
    workspace.accelerator.wait_for_everyone()
    workspace.display.say(
        f"distillation: weight {best:g} is kept (validation log loss "
        + ", ".join(f"{weight:g}: {loss:.4f}" for weight, loss in losses.items())
        + ")"
    )
    return found


def _task(workspace: Workspace, weight: float) -> CrmTask:
    """Stage 1 again, toward the language model's answers where it is good."""
    config, log = workspace.config, workspace.log
    score(workspace, "train", 0 if config.distill.rows == "all" else config.distill.rows)
    score(workspace, "validation", config.cascade.validation_rows)
    judged, llm_logit = llm_logits(workspace, "validation")
    label = log.labels(judged).numpy()
    calibration = fit_logistic(label, llm_logit)
    crm = trained_crm(workspace, stage=2)
    crm_logit = crm_logits(crm, workspace.reader, log.samples(judged)).double().numpy()
    calibrated = fit_logistic(label, crm_logit)(crm_logit)
    gate = Gate(_lesson(workspace, judged, calibration(llm_logit)), label, calibrated)
    taught, llm_logit = llm_logits(workspace, "train")
    lesson = _lesson(workspace, taught, calibration(llm_logit))
    soft = soft_targets(log.labels(taught).numpy(), lesson, gate(lesson), weight)
    rows, target = log.rows_of("train"), torch.full((len(log),), float("nan"))
    target[rows] = log.labels(rows).float()
    target[taught] = torch.from_numpy(soft).float()
    return CrmTask(new_crm(workspace), workspace.reader, log, config.stage1, config.seed, target)


def _lesson(workspace: Workspace, rows: Tensor, llm_logit: Floats) -> Lesson:
    samples = workspace.log.samples(rows)
    of = known(workspace.log, samples, llm_logit, workspace.config.crm.history_length)
    return Lesson(llm_logit, of.history_length, of.item_count, of.liked_share)
