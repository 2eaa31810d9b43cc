"""A cascade's directory: data alone, complete or absent, checked when read.

cascade.json          settings, text template, fitted router, features, label rule
crm.safetensors       the CRM's weights; absent where the CRM is external
adapter/              the language model's adapter, in peft's format
rows.parquet          the log: histories, and what users have seen
users.parquet, items.parquet
manifest.json         checksums
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import nn

from corellarec.base.artifacts import (
    MANIFEST,
    read_json,
    read_manifest,
    read_sealed,
    write_json,
    writing,
)
from corellarec.base.errors import ArtifactError, ConfigError
from corellarec.base.numbers import Count, Finite
from corellarec.base.stored import read_tensors
from corellarec.cascade.lists import ListPolicy
from corellarec.cascade.router import Router
from corellarec.config import CrmConfig, LlmConfig, NegativesConfig, load_config
from corellarec.crm.build import build_crm
from corellarec.data.log import Log
from corellarec.data.preparation import Features
from corellarec.data.stored_log import read_tables
from corellarec.data.times import TimeText
from corellarec.llm.template import Template

FORMAT = 2
CRM = "crm.safetensors"
FILES = (
    "cascade.json",
    "rows.parquet",
    "users.parquet",
    "items.parquet",
    "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors",
)


@dataclass(frozen=True)
class Recipe:
    """What a cascade is, apart from weights and log; ``cascade.json`` holds it.

    Args:
        crm: The CRM's settings.
        llm: The language model's.
        template: How users and items become text.
        router: The fitted decision.
        features: The features and their places in the log's tables.
        history: Which earlier rows of a user make the history.
        ties: Whether rows of one user and time are in each other's history.
        negatives: How the log's negatives were drawn; None where it has its own.
        positive_rating: A rating at or above this is a positive label.
        seed: Of the run that made it.
        time_format: Of the log's times that are text; by default one of the known formats.
        time_zone: Of the log's times that name none; UTC by default.
        lists: Whose lists are re-ranked as a whole; None where rows of rankings are routed alone.
        format: Version of the directory's layout.
    """

    crm: CrmConfig
    llm: LlmConfig
    template: Template
    router: Router
    features: Features
    history: Literal["all", "positives"]
    positive_rating: Finite
    seed: Count
    format: int = FORMAT
    ties: Literal["ordered", "apart"] = "ordered"
    negatives: NegativesConfig | None = None
    time_format: str | None = None
    time_zone: str | None = None
    lists: ListPolicy | None = None

    @property
    def times(self) -> TimeText:
        """How the log's times are written."""
        return TimeText(self.time_format, self.time_zone)


def write_cascade(
    directory: Path,
    recipe: Recipe,
    log: Log,
    crm: nn.Module | None,
    save_adapter: Callable[[Path], object],
    key: str = "",
) -> None:
    """Write a cascade's directory, whole or not at all.

    Args:
        directory: Replaced if it exists.
        recipe: Settings and router.
        log: Users, items and rows.
        crm: The CRM; None where it is external.
        save_adapter: Writes the language model's adapter into the directory it is given.
        key: Identifies what the cascade was made from; kept in the manifest.
    """
    with writing(directory, {"kind": "cascade", "key": key}) as unfinished:
        write_json(unfinished / "cascade.json", recipe)
        if crm is not None:
            save_file(crm.state_dict(), unfinished / CRM)
        log.rows.write_parquet(unfinished / "rows.parquet")
        log.users.write_parquet(unfinished / "users.parquet")
        log.items.write_parquet(unfinished / "items.parquet")
        save_adapter(unfinished / "adapter")


def read_cascade(
    directory: Path, device: torch.device, trust: str | None = None
) -> tuple[Recipe, Log, nn.Module | None]:
    """Read a cascade's directory.

    Args:
        directory: Where it is.
        device: Where the CRM goes.
        trust: ``package.module:Class``, if the cascade's CRM is that class of one's own: nothing
            that a directory names is imported unless the caller names it too.

    Raises:
        ArtifactError: If the directory is missing, incomplete or damaged.
        ConfigError: If the CRM is a class that ``trust`` does not name.
    """
    listed = read_manifest(directory)["files"]
    recipe = read_json(directory / "cascade.json", Recipe)
    if recipe.format != FORMAT:
        raise ArtifactError(
            f"{directory} was written in format {recipe.format}, this version reads {FORMAT}: "
            "`corellarec evaluate RUN` writes it again"
        )
    if ":" in recipe.crm.model and recipe.crm.model != trust:
        raise ConfigError(
            f"{directory}: its CRM is the class {recipe.crm.model}, which loading would import and "
            f"run: if you trust it, pass trust={recipe.crm.model!r} (--trust {recipe.crm.model})"
        )
    _check_names(directory, recipe, listed)
    tables = read_tables(directory, recipe.features)
    log = Log(
        *tables,
        features=recipe.features,
        history=recipe.history,
        ties=recipe.ties,
        negatives=recipe.negatives,
    )
    if recipe.lists and recipe.lists.length > log.items.height:
        raise ArtifactError(
            f"{directory / 'cascade.json'}: lists.length is {recipe.lists.length:,}, and there are "
            f"{log.items.height:,} items: `corellarec rank RUN --keep` fits the policy again"
        )
    crm = None
    if recipe.crm.model != "external":
        crm = _read_crm(directory / CRM, recipe, device)
    return recipe, log, crm


def _check_names(directory: Path, recipe: Recipe, listed: Mapping[str, str]) -> None:
    """Refuse a directory that lacks a file, or has one without a checksum."""
    wanted = FILES if recipe.crm.model == "external" else (*FILES, CRM)
    for name in wanted:
        if name not in listed:
            raise ArtifactError(
                f"{directory / MANIFEST} does not list {name}: the directory is incomplete, "
                "`corellarec evaluate RUN` writes it again"
            )


def _read_crm(path: Path, recipe: Recipe, device: torch.device) -> nn.Module:
    """The CRM, for which memory is allocated once its weights are known to fit its settings."""
    expected = None
    if ":" not in recipe.crm.model:
        with torch.device("meta"):
            meta = build_crm(recipe.crm, recipe.features, torch.device("meta"))
        expected = meta.state_dict()
    state = read_tensors(path, expected)
    crm = build_crm(recipe.crm, recipe.features, device).eval()
    try:
        crm.load_state_dict(state)
    except RuntimeError as error:  # the weights of a class of one's own
        raise ArtifactError(f"{path} does not fit the class {recipe.crm.model}") from error
    return crm


def check_run(run: Path, recipe: Recipe) -> None:
    """Check that the cascade in a run's directory is that run's.

    Raises:
        ArtifactError: If it was made with other settings, or the run's have changed.
    """
    path, remedy = run / "config.toml", f"`corellarec evaluate {run}` writes the cascade again"
    if not path.exists():
        return
    read_sealed(path, "put the file back as it was, or load the cascade's own directory")
    config = load_config(files=[path])
    if (config.crm, config.llm, config.seed) != (recipe.crm, recipe.llm, recipe.seed):
        raise ArtifactError(f"{run / 'cascade'} was made with other settings than {path}: {remedy}")
