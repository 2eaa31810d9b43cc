"""The router of a run, fitted on validation data, and the cascade's directory."""

import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from peft import PeftModel

from corellarec.base.artifacts import read_json, sha256
from corellarec.base.errors import ArtifactError
from corellarec.base.machine import versions
from corellarec.base.metrics import Floats
from corellarec.cascade.fit import Population, fit_router
from corellarec.cascade.lists import ListPolicy
from corellarec.cascade.router import Router, explain
from corellarec.cascade.scores import Scores
from corellarec.cascade.store import Recipe, read_cascade, write_cascade
from corellarec.config import DataConfig
from corellarec.data.preparation import read_preparation
from corellarec.data.times import times_of
from corellarec.llm.lora import save_adapter, write_adapter
from corellarec.llm.template import load_template
from corellarec.run.members import blend_members
from corellarec.run.records import finished_step
from corellarec.run.scores import known_of, score, scored_rows
from corellarec.run.stages import drawn_rows, read_state
from corellarec.run.weights import final_crm, load_tuned_adapter
from corellarec.run.workspace import Workspace


def decide(workspace: Workspace, scores: Scores, crm_logit: Floats | None = None) -> Router:
    """Fit the router on validation data.

    Args:
        workspace: The run.
        scores: Validation rows that both models scored.
        crm_logit: ``(rows of validation,)`` logits of all validation rows, where ``scores`` holds
            another CRM's than the run's own.
    """
    log, settings = workspace.log, workspace.config.cascade
    rows = log.rows_of("validation")
    known = known_of(workspace, rows)
    if crm_logit is not None:
        known = replace(known, crm_logit=crm_logit)
    population = Population(
        known=known,
        label=log.labels(rows).numpy(),
    )
    return fit_router(
        scores,
        population,
        policy=settings.policy,
        budget=settings.budget,
        threshold=settings.threshold,
        combine=settings.combine,
        seed=workspace.config.seed,
    )


def fit(workspace: Workspace) -> Router:
    """Fit the router on validation data and write the cascade's directory, or find it done.

    Processes share the language model's scoring of validation rows; the first does the rest.
    """
    score(workspace, "validation", workspace.config.cascade.validation_rows)
    with workspace.accelerator.main_process_first():
        return _fit(workspace)


def _fit(workspace: Workspace) -> Router:
    directory, config = workspace.directory / "cascade", workspace.config
    blend_members(workspace)
    key = _cascade_key(workspace)
    if workspace.done(directory, key) is not None:
        return read_json(directory / "cascade.json", Recipe).router
    validation = scored_rows(workspace, "validation", config.cascade.validation_rows)
    router = decide(workspace, validation.scores)
    data = read_preparation(workspace.directory / "data").settings
    times = times_of(data)
    recipe = Recipe(
        crm=config.crm,
        llm=config.llm,
        template=load_template(config.llm.template),
        router=router,
        features=workspace.log.features,
        history=workspace.log.history,
        ties=workspace.log.ties,
        negatives=workspace.log.negatives,
        positive_rating=data.positive_rating,
        seed=config.seed,
        time_format=times.form,
        time_zone=times.zone,
    )
    crm = None if workspace.is_external else final_crm(workspace)[0]
    load_tuned_adapter(workspace)
    write_cascade(
        directory,
        recipe,
        workspace.log,
        crm,
        lambda path: save_adapter(_tuned_model(workspace), path, config.llm.model),
        key,
    )
    workspace.display.say(f"cascade: {explain(router)}")
    return router


def _cascade_key(workspace: Workspace) -> str:
    config, parts = workspace.config, []
    if workspace.is_external:
        parts.append(sha256(Path(config.crm.external.scores or "").expanduser()))
    if config.crm.members:
        parts.append(workspace.step_key("members"))
    return workspace.key("cascade", *parts)


def check_fitted(workspace: Workspace) -> None:
    """Check that the cascade is there.

    Raises:
        ArtifactError: If it is not fitted, or with other settings.
    """
    finished_step(workspace.directory / "cascade", _cascade_key(workspace))


def keep_lists(workspace: Workspace, policy: ListPolicy | None) -> None:
    """Write the cascade's directory again with this policy of lists, or with none.

    Raises:
        ArtifactError: If the cascade is not fitted, or with other settings.
    """
    directory, key = workspace.directory / "cascade", _cascade_key(workspace)
    check_fitted(workspace)
    recipe, log, crm = read_cascade(directory, torch.device("cpu"), workspace.config.crm.model)
    write_cascade(
        directory,
        replace(recipe, lists=policy),
        log,
        crm,
        lambda path: shutil.copytree(directory / "adapter", path),
        key,
    )


@dataclass(frozen=True)
class AdapterFacts:
    """How an adapter was tuned, and how well.

    Args:
        data: Name of the data set.
        rows: Training rows of each stage, by its name.
        validation_log_loss: Calibrated, on the last stage's validation rows.
        seconds: Time of tuning.
        corellarec, torch, transformers, peft: Versions.
    """

    data: dict[str, str]
    rows: dict[str, int]
    validation_log_loss: float
    seconds: float
    corellarec: str
    torch: str
    transformers: str
    peft: str


def export_adapter(workspace: Workspace, directory: Path) -> AdapterFacts:
    """Write a run's tuned adapter with what must hold where it is used.

    Raises:
        ArtifactError: If no stage has tuned it.
    """
    tuned = [stage for stage in (2, 3) if workspace.trains(stage)]
    if not tuned:
        raise ArtifactError(f"{workspace.directory} tuned no language model")
    states = [read_state(workspace, f"stage{stage}") for stage in tuned]
    load_tuned_adapter(workspace)
    config = workspace.config
    facts = AdapterFacts(
        data={"name": _data_name(config.data)},
        rows={f"stage{stage}": len(drawn_rows(workspace, stage)[0]) for stage in tuned},
        validation_log_loss=states[-1].best["llm."],
        seconds=sum(state.seconds for state in states),
        **asdict(versions()),
    )
    write_adapter(directory, _tuned_model(workspace), config.llm, workspace.log, asdict(facts))
    return facts


def _data_name(data: DataConfig) -> str:
    """The data set's name, without where this machine keeps it."""
    if data.path:
        return Path(data.path).name
    return "own log" if data.interactions else data.fetch


def _tuned_model(workspace: Workspace) -> PeftModel:
    assert isinstance(workspace.llm.model, PeftModel)
    return workspace.llm.model
