"""What the cells of a study score, read from what they kept; the only file that reads runs."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from corellarec.base import metrics
from corellarec.base.calibrate import fit_logistic
from corellarec.base.machine import Machine, machine
from corellarec.base.metrics import Floats, sigmoid
from corellarec.base.stored import read_stored
from corellarec.cascade.policy import known
from corellarec.cascade.scores import Scores
from corellarec.config import Config
from corellarec.crm.score import crm_logits
from corellarec.data.log import Log
from corellarec.evaluation.answers import Answers
from corellarec.evaluation.facts import data_facts
from corellarec.evaluation.parts import DataFacts
from corellarec.research.baselines.experiment import read_result
from corellarec.research.study.cells import Cell, Kind
from corellarec.run.fit import decide
from corellarec.run.scores import scored_rows
from corellarec.run.weights import trained_crm
from corellarec.run.workspace import Workspace


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


def alone(run: Workspace, stage: int, rows: Tensor) -> Alone:
    """What a run's CRM, as a stage left it, answers without a language model."""
    log = run.log
    crm = None if run.is_external else trained_crm(run, stage)

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


def yardsticks(run: Workspace, rows: Tensor) -> dict[str, Floats]:
    """``(n,)`` probabilities from a single statistic, calibrated on validation.

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
class CellScores:
    """What both models of a cell score.

    Args:
        run: The cell's run.
        validation: The validation rows that the LLM scored ...
        scored: ... and their numbers.
        test: The test rows ...
        rows: ... and their numbers.
        llm_ms: Milliseconds of the LLM for a test row.
        llm_tokens: Tokens it reads for one.
        other: Another CRM in the place of the run's, if any.
    """

    run: Workspace
    validation: Scores
    scored: Tensor
    test: Scores
    rows: Tensor
    llm_ms: float
    llm_tokens: float
    other: Alone | None = None

    @cached_property
    def answers(self) -> Answers:
        """The test rows and the router, fitted on validation."""
        crm_logit = self.other.validation if self.other else None
        return Answers(self.test, decide(self.run, self.validation, crm_logit))

    @property
    def config(self) -> Config:
        """The cell's settings."""
        return self.run.config

    @property
    def log(self) -> Log:
        """The prepared log."""
        return self.run.log

    def facts(self) -> tuple[DataFacts, Machine]:
        """What a report says of the data and the machine."""
        return data_facts(self.run), machine(self.run.device)

    def p(self, key: str) -> Floats:
        """``(n,)`` probabilities of the test rows under a way to use both models."""
        return self.answers.predictions[key]

    def with_second_crm(self, second: Alone) -> "CellScores":
        """The same with another CRM in the LLM's place: the control."""
        return replace(
            self,
            validation=replace(self.validation, llm_logit=second.validation[self._places]),
            test=replace(self.test, llm_logit=second.test),
        )

    def beside(self, other: Alone) -> "CellScores":
        """The same LLM beside another CRM."""

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
        return np.searchsorted(self.log.rows_of("validation").numpy(), self.scored.numpy())


def cell_scores(cell: Cell, console: Console) -> CellScores:
    """Read what a finished cell scores."""
    run, config = cell.open(console), cell.config
    validation = scored_rows(run, "validation", config.cascade.validation_rows)
    test = scored_rows(run, "test", config.evaluate.test_rows)
    cost = test.cost
    return CellScores(
        run,
        validation.scores,
        validation.rows,
        test.scores,
        test.rows,
        llm_ms=1e3 * cost.seconds / max(1, cost.samples),
        llm_tokens=cost.tokens / max(1, cost.samples),
    )


@dataclass(frozen=True)
class BaselineScores:
    """What a baseline scores.

    Args:
        name: Of the baseline.
        p: ``(n,)`` probabilities of the test rows, NaN where it scored none.
        llm_share: 0 where no LLM is called for a prediction, else 1.
        ms: Milliseconds for 1,000 rows.
        validation_loss: Log loss (nats) on validation.
    """

    name: str
    p: Floats
    llm_share: float
    ms: float
    validation_loss: float


def baseline_scores(cell: Cell, rows: Tensor) -> BaselineScores:
    """Read what a finished baseline scores of test rows."""
    found = read_result(cell.directory)
    columns = {"row": pl.Int64(), "logit": pl.Float32()}
    scores = read_stored(cell.directory / "scores.parquet", columns)
    wanted = pl.DataFrame({"row": rows.numpy()})
    joined = wanted.join(scores, on="row", how="left", maintain_order="left")
    logit = joined["logit"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return BaselineScores(
        name=cell.name,
        p=sigmoid(logit),
        llm_share=0.0 if cell.name == "ctrl" else 1.0,
        ms=1e3 * found.ms_per_sample,
        validation_loss=found.validation_log_loss,
    )


@dataclass(frozen=True)
class StudyScores:
    """What all cells of a study score, by name, with one entry for each seed.

    Args:
        methods: The method.
        crms: Every CRM alone, the method's own first, as stage 1 left it.
        llms: The method with its LLM tuned in other ways.
        distilled: The method with its CRM taught by the LLM.
        ablation: The method of the first seed with a part left out or changed.
        baselines: The baselines.
        yardsticks: ``(n,)`` probabilities from a single statistic.
    """

    methods: list[CellScores]
    crms: dict[str, list[Alone]]
    llms: dict[str, list[CellScores]]
    distilled: dict[str, list[CellScores]]
    ablation: dict[str, list[CellScores]]
    baselines: list[BaselineScores]
    yardsticks: dict[str, Floats]

    @property
    def first(self) -> CellScores:
        """The method of the first seed."""
        return self.methods[0]

    @property
    def own(self) -> str:
        """The method's own CRM."""
        return self.first.config.crm.model


def study_scores(cells: Sequence[Cell], console: Console) -> StudyScores:
    """Read what finished cells score."""

    def of(kind: Kind) -> dict[str, list[Cell]]:
        chosen = [cell for cell in cells if cell.kind == kind]
        names = dict.fromkeys(cell.name for cell in chosen)
        return {name: [cell for cell in chosen if cell.name == name] for name in names}

    def both(kind: Kind) -> dict[str, list[CellScores]]:
        return {
            name: [cell_scores(cell, console) for cell in of_seeds]
            for name, of_seeds in of(kind).items()
        }

    (methods,) = both("method").values()
    first = methods[0]
    crms = {first.config.crm.model: [alone(one.run, 1, one.rows) for one in methods]}
    for name, of_seeds in of("crm").items():
        crms[name] = [alone(cell.open(console), 1, first.rows) for cell in of_seeds]
    baselines = [baseline_scores(c, first.rows) for cs in of("baseline").values() for c in cs]
    return StudyScores(
        methods=methods,
        crms=crms,
        llms=both("llm"),
        distilled=both("distilled"),
        ablation=both("ablation"),
        baselines=baselines,
        yardsticks=yardsticks(first.run, first.rows),
    )
