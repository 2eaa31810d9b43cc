"""What a report says of the data and the training, from a run's directory."""

from datetime import datetime
from pathlib import Path

from corellarec.config import DataConfig
from corellarec.data.preparation import read_preparation
from corellarec.evaluation.parts import DataFacts, Split, TrainingCurve
from corellarec.run.stages import read_state
from corellarec.run.workspace import STAGES, Workspace


def data_facts(workspace: Workspace) -> DataFacts:
    """The log of a run."""
    found = read_preparation(workspace.directory / "data")
    splits = {
        name: Split(
            rows=part.rows,
            positives=part.positives,
            cold_user_rows=part.cold_user_rows,
            cold_item_rows=part.cold_item_rows,
            first=_iso(part.first),
            last=_iso(part.last),
        )
        for name, part in found.splits.items()
    }
    return DataFacts(
        name=data_name(workspace.config.data),
        rows=found.rows,
        users=found.users,
        items=found.items,
        positives=found.positives,
        splits=splits,
        negatives=found.negatives_text,
    )


def data_name(config: DataConfig) -> str:
    """The data set, or the file or directory that the log was read from."""
    if config.path:
        return Path(config.path).name
    if config.interactions is None:
        return config.fetch
    files = config.interactions.files
    if not files:
        return "a query"
    return Path(files if isinstance(files, str) else files[0]).name


def training_curves(workspace: Workspace) -> dict[str, TrainingCurve]:
    """How each stage of a run, and each further network of its CRM, was trained, by its name."""
    names = [f"stage{stage}" for stage in STAGES if workspace.trains(stage)]
    names += [f"member{number}" for number in range(1, len(workspace.config.crm.networks))]
    found = {}
    for name in names:
        state = read_state(workspace, name)
        found[name] = TrainingCurve(
            step=state.step,
            seconds=state.seconds,
            best=state.best,
            best_step=state.best_step,
            history=tuple(state.history),
        )
    return found


def _iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
