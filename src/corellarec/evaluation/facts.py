"""What a report says of the data and the training, from the manifests of a run's directories."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corellarec.config import DataConfig
from corellarec.evaluation.parts import DataFacts, Distillation, Split, TrainingCurve


def data_facts(config: DataConfig, manifest: Mapping[str, Any]) -> DataFacts:
    """The log: its configuration, and the manifest of its preparation."""
    splits = {
        name: Split(
            rows=part["rows"],
            positives=part["positives"],
            cold_user_rows=part["cold_user_rows"],
            cold_item_rows=part["cold_item_rows"],
            first=part["from"],
            last=part["to"],
        )
        for name, part in manifest["splits"].items()
    }
    counts = {name: manifest[name] for name in ("rows", "users", "items", "positives")}
    return DataFacts(name=data_name(config), splits=splits, **counts)


def data_name(config: DataConfig) -> str:
    """The data set, or the file or directory that the log was read from."""
    if config.path:
        return Path(config.path).name
    if config.interactions is None:
        return config.fetch
    source = config.interactions
    return Path(source.files[0]).name if source.files else "a query"


def training_curve(manifest: Mapping[str, Any]) -> TrainingCurve:
    """A stage, from the manifest that its training wrote."""
    return TrainingCurve(
        step=manifest["step"],
        seconds=manifest["seconds"],
        best=manifest["best"],
        best_step=manifest["best_step"],
        history=tuple(manifest["history"]),
    )


def distillation(manifest: Mapping[str, Any]) -> Distillation | None:
    """The distillation, from its manifest's facts; None where there was none."""
    losses = manifest.get("validation_log_loss")
    return Distillation(manifest["weight"], losses) if losses else None
