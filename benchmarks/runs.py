"""The runs that benchmarks train and read."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from torch import Tensor

from corellarec.base.metrics import Floats
from corellarec.config import Config
from corellarec.crm.score import crm_logits
from corellarec.run.run import Run

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
    Run(config, directory, QUIET).everything()


def train_crm(config: Config, directory: Path) -> Training:
    """Train stage 1 of a run, or find it done."""
    run = Run(config, directory, QUIET)
    run.start()
    run.prepare()
    facts = run.train_stage(1)
    return Training(facts["step"], facts["seconds"], facts["best"]["crm."])


class TrainedCrm:
    """The CRM that stage 1 of a run trained.

    Args:
        directory: Of the run.

    Attributes:
        name: The directory's name.
        log: The run's log.
    """

    def __init__(self, directory: Path) -> None:
        run = Run.open(directory, QUIET)
        self.name, self.log, self._reader = directory.name, run.log, run.reader
        self._model = run.trained_crm(stage=1)

    def logits(self, rows: Tensor) -> Floats:
        """``(n,)`` logits of rows of the log."""
        samples = self.log.samples(rows)
        return crm_logits(self._model, self._reader, samples).double().numpy()
