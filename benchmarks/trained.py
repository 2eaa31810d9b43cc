"""The runs that benchmarks train and read."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from torch import Tensor

from corellarec.base.metrics import Floats
from corellarec.config import Config
from corellarec.crm.score import crm_logits
from corellarec.evaluation.run import evaluate_run
from corellarec.run.prepare import prepare_log
from corellarec.run.records import read_run_config
from corellarec.run.stages import train_stage
from corellarec.run.steps import run_steps
from corellarec.run.weights import trained_crm
from corellarec.run.workspace import Workspace

QUIET = Console(quiet=True)


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
    """Train stage 1 of a run, or find it done."""
    workspace = Workspace(config, directory, QUIET)
    workspace.start()
    prepare_log(workspace)
    state = train_stage(workspace, 1)
    assert state is not None  # stage 1 is skipped for external CRMs alone
    return Training(state.step, state.seconds, state.best["crm."])


class TrainedCrm:
    """The CRM that stage 1 of a run trained.

    Args:
        directory: Of the run.

    Attributes:
        name: The directory's name.
        log: The run's log.
    """

    def __init__(self, directory: Path) -> None:
        run = Workspace(read_run_config(directory), directory, QUIET)
        self.name, self.log, self._reader = directory.name, run.log, run.reader
        self._model = trained_crm(run, stage=1)

    def logits(self, rows: Tensor) -> Floats:
        """``(n,)`` logits of rows of the log."""
        samples = self.log.samples(rows)
        return crm_logits(self._model, self._reader, samples).double().numpy()
