"""What the models of a cell answer on validation and test rows, read from what the cell kept."""

import time
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from corellarec.base import metrics
from corellarec.base.calibrate import fit_logistic
from corellarec.base.metrics import Floats, sigmoid
from corellarec.cascade.policy import known
from corellarec.cascade.router import Router
from corellarec.crm.score import crm_logits
from corellarec.evaluation.evaluate import Scores, predictions
from corellarec.research.study.cells import Cell
from corellarec.run.run import Run


@dataclass(frozen=True)
class Alone:
    """A CRM, calibrated on validation rows.

    Args:
        validation: ``(v,)`` raw logits of all validation rows.
        test: ``(n,)`` raw logits of the test rows.
        p: ``(n,)`` calibrated probabilities of the test rows.
        validation_loss: Calibrated log loss (nats) on all validation rows.
        ms: Milliseconds for 1,000 rows.
    """

    validation: Floats
    test: Floats
    p: Floats
    validation_loss: float
    ms: float


def alone(run: Run, stage: int, rows: Tensor) -> Alone:
    """What a run's CRM, as a stage left it, answers without a language model."""
    log = run.log
    crm = None if run.is_external else run.trained_crm(stage)

    def logits(of: Tensor) -> Floats:
        if crm is None:
            return run.external_logits[of].double().numpy()
        return crm_logits(crm, run.reader, log.samples(of)).double().numpy()

    of_validation = log.rows_of("validation")
    validation = logits(of_validation)
    start = time.perf_counter()
    test = logits(rows)
    ms = 1e6 * (time.perf_counter() - start) / len(rows)
    label = log.labels(of_validation).numpy()
    calibration = fit_logistic(label, validation)
    loss = metrics.log_loss(label, sigmoid(calibration(validation)))
    return Alone(validation, test, sigmoid(calibration(test)), loss, ms)


def yardsticks(run: Run, rows: Tensor) -> dict[str, Floats]:
    """``(n,)`` probabilities from one number alone, calibrated on validation: what models add to.

    A row's own label is missing from the user's share, which therefore is low before a positive
    row and high before a negative one: within single users it is worse than chance.
    """
    log, validation = run.log, run.log.rows_of("validation")
    label = log.labels(validation).numpy()

    def of_user(of: Tensor) -> Floats:
        length = run.config.crm.history_length
        return known(log, log.samples(of), np.zeros(len(of)), length).liked_share

    def of_item(of: Tensor) -> Floats:
        return log.liked[0][of.numpy()].astype(np.float64)

    numbers = {
        "share of the user's rows liked so far": of_user,
        "how well the item is liked in training": of_item,
    }
    return {
        name: sigmoid(fit_logistic(label, number(validation))(number(rows)))
        for name, number in numbers.items()
    }


@dataclass(frozen=True)
class Answers:
    """Both models of a run, and the router between them.

    Args:
        run: The run.
        validation: The validation rows that the language model scored ...
        scored: ... and their numbers.
        test: The test rows ...
        rows: ... and their numbers.
        cost: Tokens and seconds of the language model on the test rows.
        other: Another CRM in the place of the run's, if any.
    """

    run: Run
    validation: Scores
    scored: Tensor
    test: Scores
    rows: Tensor
    cost: dict[str, Any]
    other: Alone | None = None

    @cached_property
    def router(self) -> Router:
        """The decision, fitted on validation."""
        crm_logit = self.other.validation if self.other else None
        return self.run.decide(self.validation, self.scored, crm_logit)

    @cached_property
    def predictions(self) -> dict[str, Floats]:
        """Probabilities of the test rows under every way to use both models."""
        return predictions(self.test, self.router)

    def with_second_crm(self, second: Alone) -> "Answers":
        """The same with another CRM in the language model's place: the control."""
        return replace(
            self,
            validation=replace(self.validation, llm_logit=second.validation[self._places]),
            test=replace(self.test, llm_logit=second.test),
        )

    def beside(self, other: Alone) -> "Answers":
        """The same language model beside another CRM."""

        def beside(scores: Scores, crm_logit: Floats) -> Scores:
            return replace(scores, known=replace(scores.known, crm_logit=crm_logit))

        return replace(
            self,
            validation=beside(self.validation, other.validation[self._places]),
            test=beside(self.test, other.test),
            other=other,
        )

    @property
    def _places(self) -> NDArray[np.int64]:
        """Places of the scored rows among all validation rows."""
        return np.searchsorted(self.run.log.rows_of("validation").numpy(), self.scored.numpy())


def answers(cell: Cell, console: Console) -> Answers:
    """Read what a finished cell answers."""
    run, config = cell.open(console), cell.config
    validation, scored, _ = run.scores("validation", config.cascade.validation_rows)
    test, rows, cost = run.scores("test", config.evaluate.test_rows)
    return Answers(run, validation, scored, test, rows, cost)


def baseline_logits(cell: Cell, rows: Tensor) -> Floats:
    """``(n,)`` a baseline's logits of test rows, NaN where it scored none."""
    scores = pl.read_parquet(cell.directory / "scores.parquet", glob=False)
    wanted = pl.DataFrame({"row": rows.numpy()})
    joined = wanted.join(scores, on="row", how="left", maintain_order="left")
    return joined["logit"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
