"""The language model teaches the CRM: its networks again, toward labels mixed with its answers.

See also: Hinton et al. 2015, "Distilling the knowledge in a neural network",
https://arxiv.org/abs/1503.02531
"""

import shutil
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from corellarec.base.artifacts import writing
from corellarec.base.calibrate import fit_logistic
from corellarec.base.metrics import sigmoid
from corellarec.run.members import network_names, train_network
from corellarec.run.scores import llm_logits, score
from corellarec.run.stages import read_state
from corellarec.run.status import final_step, trained_step
from corellarec.run.workspace import Workspace


@dataclass(frozen=True)
class Distilled:
    """How a network of the CRM was taught.

    Args:
        network: Its name.
        weight: The language model's share in the targets; 0 is the network as it was before.
        validation_log_loss: Nats, by the weight that was tried, as text.
    """

    network: str
    weight: float
    validation_log_loss: dict[str, float]


def distill(workspace: Workspace) -> tuple[Distilled, ...]:
    """Train each network of the CRM on labels mixed with the language model's answers.

    The weight with the lowest validation log loss is kept, the network before among them.

    Returns:
        One for each network; none where distillation is not part of the run.
    """
    if workspace.config.distill.rows == 0 or workspace.is_external:
        return ()
    names = network_names(workspace.config.crm)
    return tuple(_distilled(workspace, number, name) for number, name in enumerate(names))


def _distilled(workspace: Workspace, number: int, name: str) -> Distilled:
    """Teach one network, or find it done."""
    config = workspace.config
    step, before = final_step(config, number), trained_step(config, number)
    directory, key = workspace.directory / step, workspace.step_key(step)
    if (facts := workspace.done(directory, key)) is not None:
        return Distilled(name, facts["weight"], facts["validation_log_loss"])
    losses = {0.0: read_state(workspace, before).best["crm."]}
    where = {0.0: workspace.directory / before}
    trying = workspace.directory / "distilling"
    for weight in config.distill.weights:
        where[weight] = trying / f"{step}-{weight}"
        state = train_network(
            workspace,
            number,
            where[weight],
            f"{key} {weight}",
            title=f"distillation, {name}, weight {weight:g}: alone",
            target=partial(targets, workspace, weight),
        )
        losses[weight] = state.best["crm."]
    best = min(losses, key=lambda weight: losses[weight])
    found = Distilled(name, best, {str(weight): loss for weight, loss in losses.items()})
    if workspace.accelerator.is_main_process:
        with writing(directory, {"kind": step, "key": key, **vars(found)}) as unfinished:
            shutil.copy(where[best] / "model.safetensors", unfinished / "model.safetensors")
        shutil.rmtree(trying)
    workspace.accelerator.wait_for_everyone()
    tried = ", ".join(f"{weight:g}: {loss:.4f}" for weight, loss in losses.items())
    workspace.display.say(
        f"distillation, {name}: weight {best:g} is kept (validation log loss {tried})"
    )
    return found


def targets(workspace: Workspace, weight: float) -> Tensor:
    """``(rows of the log,)`` what the CRM is taught; NaN outside the training split.

    Args:
        workspace: The run.
        weight: The language model's calibrated answer weighs so much, 0 to 1, and the label the
            rest, where it has answered; elsewhere the label is the target.
    """
    config, log = workspace.config, workspace.log
    score(workspace, "train", 0 if config.distill.rows == "all" else config.distill.rows)
    score(workspace, "validation", config.cascade.validation_rows)
    judged, llm_logit = llm_logits(workspace, "validation")
    calibrate = fit_logistic(log.labels(judged).numpy(), llm_logit)
    taught, llm_logit = llm_logits(workspace, "train")
    answer = torch.from_numpy(sigmoid(calibrate(llm_logit)))
    rows, target = log.rows_of("train"), torch.full((len(log),), float("nan"))
    target[rows] = log.labels(rows).float()
    target[taught] = ((1 - weight) * log.labels(taught) + weight * answer).float()
    return target
