"""The three training stages of a run.

Source: Xi et al. 2024, https://arxiv.org/abs/2403.16378
"""

from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from safetensors.torch import save_file
from torch import Tensor, nn

from corellarec.base.artifacts import writing
from corellarec.base.errors import ConfigError
from corellarec.base.machine import versions
from corellarec.config import LlmStageConfig, StageConfig
from corellarec.run.records import finished_step
from corellarec.run.status import why_skipped
from corellarec.run.weights import load_part, new_crm, stage1_logits, trained_crm
from corellarec.run.workspace import Workspace
from corellarec.train.align import Alignment
from corellarec.train.checkpoint import Progress, trainable_state
from corellarec.train.loop import State, Task, train
from corellarec.train.stages import (
    CrmTask,
    LlmStageModel,
    LlmTask,
    draw_rows,
    least_confident,
    take,
)

TITLES = {1: "the CRM alone", 2: "both models, aligned", 3: "the LLM alone"}


def train_stage(workspace: Workspace, stage: int) -> State | None:
    """Train stage 1, 2 or 3, or find it done; None where it is not part of the run.

    Raises:
        ArtifactError: If the stage before it is missing or damaged.
    """
    if not workspace.trains(stage):
        workspace.display.say(f"stage {stage}: skipped ({why_skipped(workspace.config, stage)})")
        return None
    return train_into(
        workspace,
        workspace.directory / f"stage{stage}",
        workspace.step_key(f"stage{stage}"),
        lambda: stage_task(workspace, stage),
        getattr(workspace.config, f"stage{stage}"),
        title=f"stage {stage}: {TITLES[stage]}",
        seed=stage_seed(workspace, stage),
    )


def stage_seed(workspace: Workspace, stage: int) -> int:
    """The seed of a stage's steps."""
    return workspace.config.seed * 10 + stage


def read_state(workspace: Workspace, name: str) -> State:
    """How ``stage1`` to ``stage3``, or ``member1`` and on, was trained.

    Raises:
        ArtifactError: If it is not done, or damaged.
    """
    return _state(finished_step(workspace.directory / name, workspace.step_key(name)))


def train_into(
    workspace: Workspace,
    directory: Path,
    key: str,
    make_task: Callable[[], Task],
    settings: StageConfig,
    *,
    title: str,
    seed: int,
) -> State:
    """Train a task and write its best weights, or find it done.

    Args:
        workspace: The run.
        directory: Where the weights go.
        key: Identifies what is trained; only a checkpoint of the same key is continued.
        make_task: Makes the task; called only if there is something to train.
        settings: Of the training.
        title: What is trained; up to a colon, its name.
        seed: Seed of everything random.
    """
    name, display = title.partition(":")[0], workspace.display
    if (facts := workspace.done(directory, key)) is not None:
        display.say(f"{name}: done before")
        return _state(facts)
    task = make_task()
    progress = Progress(directory.with_name(f"{directory.name}.progress"), key)
    if (newest := progress.newest()) is not None:
        display.say(f"{name}: continuing from step {newest[1]['step']}")
    with display.bar(title) as report:
        state = train(
            task,
            settings,
            progress=progress,
            seed=seed,
            accelerator=workspace.accelerator,
            report=report,
        )
    if workspace.accelerator.is_main_process:
        facts = {"kind": directory.name, "key": key, **asdict(state), **asdict(versions())}
        with writing(directory, facts) as unfinished:
            save_file(trainable_state(task.model), unfinished / "model.safetensors")
        progress.clear()
    workspace.accelerator.wait_for_everyone()
    best = ", ".join(
        f"{_metric_title(metric)} {state.best[part]:.4f} (AUC {_auc(state, part, metric):.4f}) at "
        f"step {state.best_step[part]}"
        for part, metric in task.selection.items()
        if part in state.best and part != "alignment." and metric.endswith("log_loss")
    )
    display.say(
        f"{name}: {state.step} steps in {state.seconds:.0f} s" + (f"; best {best}" if best else "")
    )
    return state


def stage_task(workspace: Workspace, stage: int) -> Task:
    """What a stage trains, its models as the stages before left them."""
    config, log = workspace.config, workspace.log
    if stage == 1:
        return CrmTask(new_crm(workspace), workspace.reader, log, config.stage1, config.seed)
    settings: LlmStageConfig = config.stage3 if stage == 3 else config.stage2
    rows, _ = drawn_rows(workspace, stage)
    parts: dict[str, Any] = {}
    if stage == 2:
        crm = trained_crm(workspace, stage=1)
        parts = {"crm": crm, "reader": workspace.reader, "config": config.stage2}
        parts["alignment"] = alignment(workspace, crm)
    elif workspace.trains(2):
        directory, key = workspace.directory / "stage2", workspace.step_key("stage2")
        load_part(workspace.llm, directory, key, "llm.")
    if not len(rows):
        raise ConfigError(
            f"stage3.rows: stage 2 takes all {len(log.rows_of('train'))} rows of the training "
            'split, and stage 3 takes others: lower stage2.rows, or set stage3.rows = "all"'
        )
    validation, _ = take(
        draw_rows(log, "validation", chunk_rows(workspace), config.seed), settings.validation_rows
    )
    model = LlmStageModel(workspace.llm, log, rows, settings.rating_weight, **parts)
    return LlmTask(model, workspace.scorer, settings, validation, config.seed)


def chunk_rows(workspace: Workspace) -> int:
    """Rows that are drawn together: as many as one sequence of the stream layout answers."""
    return workspace.config.llm.window - workspace.config.llm.history_length


def drawn_rows(workspace: Workspace, stage: int) -> tuple[Tensor, list[Tensor]]:
    """Training rows of stage 2 or 3, and the chunks that neither it nor one before it takes.

    Stage 3 takes other rows than stage 2, unless it takes all.
    """
    log, config = workspace.log, workspace.config
    chunks = draw_rows(log, "train", chunk_rows(workspace), config.seed)
    rows = torch.zeros(0, dtype=torch.long)
    for number in (2, 3):
        if number > stage or not workspace.trains(number):
            continue
        settings: LlmStageConfig = getattr(config, f"stage{number}")
        if settings.rows == "all":
            rows, chunks = log.rows_of("train"), []
        else:
            if settings.subset == "uncertain":
                chunks = least_confident(chunks, stage1_logits(workspace))
            rows, chunks = take(chunks, settings.rows)
    return rows, chunks


def alignment(workspace: Workspace, crm: nn.Module) -> Alignment:
    """The alignment loss; its layers are checked against both models.

    Raises:
        ConfigError: If a pair names a layer that is not there.
    """
    config = workspace.config.align
    try:
        for name, _ in config.pairs:
            workspace.llm.layer_number(name)
        set_seed(workspace.config.seed)
        return Alignment(
            config.pairs,
            llm_width=workspace.llm.width,
            crm_widths=crm.layer_widths,  # pyright: ignore[reportArgumentType]
            width=config.width,
            exponent=config.exponent,
        ).to(workspace.device)
    except ValueError as error:
        raise ConfigError(f"align.pairs: {error}") from error


def _state(facts: dict[str, Any]) -> State:
    return State(**{field.name: facts[field.name] for field in fields(State)})


def _metric_title(metric: str) -> str:
    """``calibrated_llm_log_loss`` in words."""
    *how, model = metric.removesuffix("_log_loss").split("_")
    return " ".join([*how, model.upper(), "log loss"])


def _auc(state: State, part: str, metric: str) -> float:
    """Validation AUC of a part's best weights, picked by a log loss."""
    best = next(one for one in state.history if one["step"] == state.best_step[part])
    return best[f"{metric.removeprefix('calibrated_').removesuffix('_log_loss')}_auc"]
