"""Further networks of the CRM: each is trained alone, then all are blended on validation data."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from corellarec.base import metrics
from corellarec.base.artifacts import read_json, write_json, writing
from corellarec.base.calibrate import LogisticMap, fit_logistic, user_folds
from corellarec.base.metrics import Floats, Labels, losses, sigmoid
from corellarec.config import CrmConfig
from corellarec.crm.build import network_reader
from corellarec.crm.ensemble import Blended
from corellarec.crm.score import crm_logits
from corellarec.run.stages import train_into
from corellarec.run.weights import BLEND, final_networks, new_network
from corellarec.run.workspace import Workspace
from corellarec.train.loop import State
from corellarec.train.stages import CrmTask


def train_members(workspace: Workspace) -> None:
    """Train each further network of the CRM alone, or find it done."""
    for number, member in enumerate(workspace.config.crm.members, 1):
        step = f"member{number}"
        train_network(
            workspace,
            number,
            workspace.directory / step,
            workspace.step_key(step),
            title=f"member {number}, {member.crm.model}: alone",
        )


def train_network(
    workspace: Workspace,
    number: int,
    directory: Path,
    key: str,
    *,
    title: str,
    target: Callable[[], Tensor] | None = None,
) -> State:
    """Train a network of the CRM alone, or find it done.

    Args:
        workspace: The run.
        number: Which one; 0 is the first.
        directory: Where its weights go.
        key: Identifies what is trained.
        title: What is trained; up to a colon, its name.
        target: Makes ``(rows of the log,)``, what to train towards in place of the labels.
    """
    config, log = workspace.config, workspace.log
    network, settings = config.crm.networks[number], config.stage1
    if number:
        settings = config.crm.members[number - 1].stage1
    seed = config.seed + number  # a network that is there twice has two seeds

    def task() -> CrmTask:
        crm = new_network(workspace, network, seed)
        reader = network_reader(network, log, workspace.device)
        return CrmTask(crm, reader, log, settings, seed, target() if target else None)

    return train_into(workspace, directory, key, task, settings, title=title, seed=10 * seed + 1)


def blend_members(workspace: Workspace) -> Blended | None:
    """Fit the weights of the networks' logits on validation data, or find it done.

    Returns:
        None where the CRM is one network.

    Raises:
        ArtifactError: If a network is not trained.
    """
    if not workspace.config.crm.members:
        return None
    directory, key = workspace.directory / "members", workspace.step_key("members")
    if workspace.done(directory, key) is not None:
        return read_json(directory / BLEND, Blended)
    rows = workspace.log.rows_of("validation")
    label, samples = workspace.log.labels(rows).numpy(), workspace.log.samples(rows)
    user = samples.user.numpy()
    logits = [
        crm_logits(crm, network_reader(config, workspace.log, workspace.device), samples)
        for crm, config in zip(
            final_networks(workspace), workspace.config.crm.networks, strict=True
        )
    ]
    logits = [one.double().numpy() for one in logits]
    blend = fit_blend(label, user, logits)
    others = [logits[:i] + logits[i + 1 :] for i in range(len(logits))]
    found = Blended(
        names=network_names(workspace.config.crm),
        weights=blend.weights,
        bias=blend.bias,
        alone=tuple(_loss(label, fit_logistic(label, one), [one]) for one in logits),
        without=tuple(_loss(label, fit_blend(label, user, some), some) for some in others),
        together=_loss(label, blend, logits),
    )
    with writing(directory, {"kind": "members", "key": key}) as unfinished:
        write_json(unfinished / BLEND, found)
    parts = [
        f"{weight:.2f} {name} ({loss:.4f} alone)"
        for weight, name, loss in zip(found.weights, found.names, found.alone, strict=True)
    ]
    workspace.display.say(f"CRM: {' + '.join(parts)}; validation log loss {found.together:.4f}")
    return found


def network_names(config: CrmConfig) -> tuple[str, ...]:
    """A name for each network of a CRM; those of one kind are numbered."""
    models = [network.model for network in config.networks]
    return tuple(
        model if models.count(model) == 1 else f"{model} {models[:i].count(model) + 1}"
        for i, model in enumerate(models)
    )


def fit_blend(label: Labels, user: NDArray[np.int64], logits: Sequence[Floats]) -> LogisticMap:
    """Weights of networks' logits in their blend, 0 for a network that is not shown to help.

    The best network is joined by the one that lowers the log loss most, as long as one lowers it by
    more than the standard error over users. Losses are cross-fitted: whoever is scored had no part
    in the weights.

    Args:
        label: ``(n,)`` of 0 and 1.
        user: ``(n,)`` each row's user.
        logits: ``(n,)`` of each network.
    """
    folds, number = user_folds(label, user), np.unique(user, return_inverse=True)[1]

    def user_losses(chosen: list[int]) -> Floats:
        found = np.zeros(len(label))
        for fit, held in folds:
            blend = fit_logistic(label[fit], *(logits[i][fit] for i in chosen))
            p = sigmoid(blend(*(logits[i][held] for i in chosen)))
            found[held] = losses(label[held], p)
        return np.bincount(number, found).astype(np.float64)

    def joined(chosen: list[int]) -> tuple[int, Floats]:
        others = (i for i in range(len(logits)) if i not in chosen)
        found = ((i, user_losses([*chosen, i])) for i in others)
        return min(found, key=lambda one: one[1].sum())

    first, best = joined([])
    chosen = [first]
    while len(chosen) < len(logits):
        added, found = joined(chosen)
        saved = best - found
        if saved.sum() <= saved.std() * math.sqrt(len(saved)):
            break
        chosen, best = [*chosen, added], found
    blend = fit_logistic(label, *(logits[i] for i in chosen))
    weight = dict(zip(chosen, blend.weights, strict=True))
    return LogisticMap(tuple(weight.get(i, 0.0) for i in range(len(logits))), blend.bias)


def _loss(label: Labels, blend: LogisticMap, logits: Sequence[Floats]) -> float:
    return metrics.log_loss(label, sigmoid(blend(*logits)))
