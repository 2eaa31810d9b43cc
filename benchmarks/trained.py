"""The runs that benchmarks train and read."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from torch import Tensor

from corellarec.base.metrics import Floats
from corellarec.config import Config
from corellarec.crm.score import crm_logits
from corellarec.evaluation.run import evaluate_run
from corellarec.run.members import blend_members, train_members
from corellarec.run.prepare import prepare_log
from corellarec.run.records import read_run_config
from corellarec.run.stages import read_state, train_stage
from corellarec.run.steps import run_steps
from corellarec.run.weights import final_crm, trained_crm
from corellarec.run.workspace import Workspace

QUIET = Console(quiet=True)
SMALL_RUN = (
    "stage1.epochs=3",
    "stage2.rows=0",
    "stage3.rows=1500",
    "stage3.evaluations=1",
    "stage3.validation_rows=300",
    "cascade.validation_rows=1000",
    "evaluate.test_rows=1000",
)


@dataclass(frozen=True)
class Training:
    """What training a CRM took, and what came of it.

    Args:
        steps: Optimizer steps.
        seconds: Time.
        validation_log_loss: Of the best weights, which are kept.
    """

    steps: int
    seconds: float
    validation_log_loss: float


def train_run(config: Config, directory: Path) -> None:
    """Do all steps of a run."""
    workspace = Workspace(config, directory, QUIET)
    run_steps(workspace)
    evaluate_run(workspace)


def train_crm(config: Config, directory: Path) -> Training:
    """Train stage 1 of a run and the further networks of its CRM, or find them done.

    Steps that another run beside ``directory`` has done are taken from there.
    """
    workspace = Workspace(config, directory, QUIET, neighbours=directory.parent)
    workspace.start()
    prepare_log(workspace)
    state = train_stage(workspace, 1)
    assert state is not None  # stage 1 is skipped for external CRMs alone
    train_members(workspace)
    blended = blend_members(workspace)
    if blended is None:
        return Training(state.step, state.seconds, state.best["crm."])
    states = [state, *(read_state(workspace, f"member{i}") for i in range(1, len(blended.names)))]
    seconds = sum(one.seconds for one in states)
    return Training(sum(one.step for one in states), seconds, blended.together)


class TrainedCrm:
    """The CRM that stage 1 of a run trained, with its members if it has some.

    Args:
        directory: Of the run.

    Attributes:
        name: The directory's name.
        log: The run's log.
    """

    def __init__(self, directory: Path) -> None:
        run = Workspace(read_run_config(directory), directory, QUIET)
        self.name, self.log = directory.name, run.log
        with_members = run.config.crm.members
        self._crm = final_crm(run) if with_members else (trained_crm(run, stage=1), run.reader)

    def logits(self, rows: Tensor) -> Floats:
        """``(n,)`` logits of rows of the log."""
        samples = self.log.samples(rows)
        return crm_logits(*self._crm, samples).double().numpy()
