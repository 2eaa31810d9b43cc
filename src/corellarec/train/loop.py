"""The one training loop: steps, schedule, validation, best weights, checkpoints.

Nothing random outlives a step: the batches follow from (seed, epoch) and each step seeds torch
again from (seed, step), so that a run continued from a checkpoint is the run that was interrupted.

A step is the same whatever the number of processes: they divide its samples, and its loss is the
mean over all of them. Any number of processes may continue a checkpoint.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn

from corellarec.base.processes import (
    add_up_gradients,
    as_in_first,
    parts_of_step,
    take_from_first,
)
from corellarec.base.stop import signals_held
from corellarec.config import StageConfig
from corellarec.train.checkpoint import (
    Progress,
    copied,
    load_optimizer,
    load_tensors,
    load_trainable,
    optimizer_state,
    trainable_state,
)
from corellarec.train.optimizer import LazyAdamW, clip_gradients

CHECKPOINT_SECONDS = 60.0


class Task(Protocol):
    """What a stage trains.

    Attributes:
        model: Maps a batch to ``(loss, parts)``; parts are detached scalars to log.
        parameter_groups: Groups for the optimizer, each with ``params`` and peak ``lr``.
        selection: For each part of the model, by the prefix of its parameters' names, the
            validation metric, lower is better, that picks its best weights.
    """

    @property
    def model(self) -> nn.Module: ...  # noqa: D102 (see Attributes)

    parameter_groups: list[dict[str, Any]]
    selection: dict[str, str]

    def batches(self, epoch: int) -> Sequence[Any]:
        """The batches of an epoch, the same for the same epoch, as many in each.

        A batch is a tensor or list of one or more rows or sequences, and can be cut between them.
        """
        ...

    def size(self, part: Any) -> int:  # noqa: ANN401 (a batch, or a slice of one)
        """Samples in a batch or a part of it: its weight in the mean loss of a step."""
        ...

    def read(self, part: Any) -> Any:  # noqa: ANN401 (what the model takes)
        """A batch, or a part of it, as the model takes it."""
        ...

    def validate(self) -> dict[str, float]:
        """Metrics on validation data."""
        ...


@dataclass
class State:
    """Where a stage stands; all of it is in a checkpoint."""

    step: int = 0
    waited: int = 0
    best: dict[str, float] = field(default_factory=dict)
    best_step: dict[str, int] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    losses: dict[str, list[float]] = field(default_factory=dict)
    """Of each step since the last validation, by part."""
    seconds: float = 0.0


def learning_rate_factor(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate at ``step`` (from 0) of ``steps``.

    Rises linearly over the share ``warmup`` of the steps, then falls as a cosine to a tenth.
    """
    rise = max(1, round(steps * warmup))
    if step < rise:
        return (step + 1) / rise
    through = (step - rise) / max(1, steps - rise)
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * through))


def train(
    task: Task,
    config: StageConfig,
    *,
    progress: Progress,
    seed: int,
    accelerator: Accelerator,
    report: Callable[[int, int, str], None] = lambda step, steps, message: None,
) -> State:
    """Train, validate and keep the best weights, which the model holds afterwards.

    Args:
        task: The model, its batches and its validation.
        config: Learning rates' shape, epochs, validations, patience.
        progress: Where to continue from and write to.
        seed: Seed of everything random.
        accelerator: The processes that divide the samples of a step, one or ``torchrun``'s.
        report: Called after every step with the step, all steps, and the last validation.
    """
    groups = [dict(group, peak=group["lr"]) for group in task.parameter_groups]
    fused = accelerator.device.type in ("cpu", "cuda")
    optimizer = LazyAdamW(groups, weight_decay=config.weight_decay, fused=fused)
    state, best = State(), copied(trainable_state(task.model))
    if (checkpoint := progress.newest()) is not None:
        directory, facts = checkpoint
        load_trainable(task.model, load_tensors(directory, "model"), directory)
        load_optimizer(optimizer, load_tensors(directory, "optimizer"))
        best = load_tensors(directory, "best")
        state = State(**facts["state"])
    trained = list(task.model.parameters())
    take_from_first([p for p in trained if p.requires_grad], accelerator)
    rank, processes = accelerator.process_index, accelerator.num_processes
    steps_per_epoch = math.ceil(len(task.batches(0)) / config.accumulate)
    steps = steps_per_epoch * config.epochs
    validation_steps = _spread(steps_per_epoch, config.evaluations)
    started = saved = time.monotonic()

    def save(recent: list[dict[str, Tensor]]) -> None:
        _collect(state, recent)
        if accelerator.is_main_process:
            state.seconds += time.monotonic() - started
            progress.save(
                state.step,
                {
                    "model": trainable_state(task.model),
                    "best": best,
                    "optimizer": optimizer_state(optimizer),
                },
                {"state": vars(state)},
            )

    if state.step == 0 and not state.history:
        _validate(task, state, best, {}, accelerator)
        report(0, steps, _summary(state))
    while state.step < steps and state.waited < config.patience:
        epoch, start = divmod(state.step, steps_per_epoch)
        batches = task.batches(epoch)
        recent: list[dict[str, Tensor]] = []
        for first in range(start * config.accumulate, len(batches), config.accumulate):
            together = batches[first : first + config.accumulate]
            validates = state.step % steps_per_epoch + 1 in validation_steps
            with signals_held() as signals:
                set_seed(_seed(seed, state.step, rank))
                task.model.train()
                factor = learning_rate_factor(state.step, steps, config.warmup)
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * factor
                whole = sum(task.size(batch) for batch in together)
                losses: dict[str, Tensor] = {}
                for part, counts in parts_of_step(together, rank, processes):
                    weight = task.size(part) / whole if counts else 0.0
                    loss, parts = task.model(task.read(part))
                    (loss * weight).backward()
                    for name, value in {"loss": loss.detach(), **parts}.items():
                        losses[name] = losses.get(name, 0.0) + value * weight
                summed = add_up_gradients(trained, torch.stack([*losses.values()]), accelerator)
                recent.append(dict(zip(losses, summed, strict=True)))
                clip_gradients(trained, config.clip_norm)
                optimizer.step()
                optimizer.zero_grad()
                state.step += 1
                if signals and not validates:
                    save(recent)
            if validates:
                _collect(state, recent)
                means = {k: float(torch.tensor(v).mean()) for k, v in state.losses.items()}
                state.losses.clear()
                _validate(task, state, best, means, accelerator)
            due = time.monotonic() - saved > CHECKPOINT_SECONDS
            if due:
                save(recent)
                started = saved = time.monotonic()
            report(state.step, steps, _summary(state))
            if state.waited >= config.patience:
                break
    state.seconds += time.monotonic() - started
    load_trainable(task.model, best, "best weights")
    return state


def _collect(state: State, recent: list[dict[str, Tensor]]) -> None:
    """Move the losses of recent batches into the state."""
    for name in recent[0] if recent else ():
        values = torch.stack([losses[name] for losses in recent]).tolist()
        state.losses.setdefault(name, []).extend(values)
    recent.clear()


def _spread(steps: int, count: int) -> set[int]:
    """``count`` steps, spread evenly over 1 to ``steps``, the last among them."""
    return {round(steps * (i + 1) / count) for i in range(count)}


def _seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])


def _validate(
    task: Task,
    state: State,
    best: dict[str, Tensor],
    training: dict[str, float],
    accelerator: Accelerator,
) -> None:
    """Validate, and update the best weights of every part that got better.

    All processes take the first one's figures, and its statistics of a batch normalisation.
    """
    take_from_first(task.model.buffers(), accelerator)
    task.model.eval()
    metrics = as_in_first(task.validate(), accelerator)
    state.history.append({"step": state.step, **training, **metrics})
    current, improved = trainable_state(task.model), False
    for prefix, metric in task.selection.items():
        if metrics[metric] < state.best.get(prefix, math.inf):
            state.best[prefix], state.best_step[prefix] = metrics[metric], state.step
            for name, tensor in current.items():
                if name.startswith(prefix):
                    best[name].copy_(tensor)
            improved = True
    state.waited = 0 if improved else state.waited + 1


def _summary(state: State) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} {value:.4f}"
        for name, value in state.history[-1].items()
        if name.endswith(("auc", "log_loss"))
    )
