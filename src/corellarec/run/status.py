"""What a run's directory holds."""

from dataclasses import dataclass
from pathlib import Path

from corellarec.base.artifacts import MANIFEST
from corellarec.config import Config
from corellarec.run.records import read_run_config


@dataclass(frozen=True)
class Status:
    """Which steps of a run are done.

    Args:
        run: The directory.
        config: The run's settings.
        done: Whether each of the run's steps is done, in order; steps that are not part of the
            run are absent.
        skipped: Why a step is not part of the run.
    """

    run: str
    config: Config
    done: dict[str, bool]
    skipped: dict[str, str]

    @property
    def evaluated(self) -> bool:
        """Whether there are figures."""
        return self.done["evaluated"]

    def lines(self) -> list[tuple[str, str]]:
        """Each step and its state in words."""
        found = {step: "done" if done else "not yet" for step, done in self.done.items()}
        found |= {step: f"skipped: {why}" for step, why in self.skipped.items()}
        return [(step, found[step]) for step in STEPS if step in found]


STEPS = ("data", "stage1", "stage2", "stage3", "distilled", "members", "cascade", "evaluated")


def status(directory: Path) -> Status:
    """Look at a run's directory; no model is loaded, and no device is needed.

    Raises:
        ArtifactError: If it is not that of a run.
    """
    config = read_run_config(directory)
    skipped = {}
    for stage in (1, 2, 3):
        if why := why_skipped(config, stage):
            skipped[f"stage{stage}"] = why
    if config.distill.rows == 0 or config.crm.model == "external":
        skipped["distilled"] = "distill.rows = 0" if config.distill.rows == 0 else "external CRM"
    absent = set(skipped) if config.crm.members else {*skipped, "members"}
    done = {
        step: (directory / step / MANIFEST).exists() for step in STEPS[:-1] if step not in absent
    }
    done["evaluated"] = (directory / "metrics.json").exists()
    return Status(str(directory), config, done, skipped)


def why_skipped(config: Config, stage: int) -> str:
    """Why a stage (1, 2 or 3) is not part of a run; empty if it is."""
    external = config.crm.model == "external"
    if stage > 1 and config.llm.adapter:
        return "llm.adapter is tuned already"
    if stage < 3 and external:
        return "the CRM is external"
    rows = {2: config.stage2.rows, 3: config.stage3.rows}.get(stage)
    return f"stage{stage}.rows = 0" if rows == 0 else ""


def trained_step(config: Config, number: int) -> str:
    """The step that trains a network of the CRM with the labels; 0 is the first network."""
    if number:
        return f"member{number}"
    return "stage1" if why_skipped(config, 2) else "stage2"


def final_step(config: Config, number: int) -> str:
    """The step that leaves a network of the CRM as it is used in the end; 0 is the first."""
    if config.distill.rows:
        return f"distilled-member{number}" if number else "distilled"
    return trained_step(config, number)
