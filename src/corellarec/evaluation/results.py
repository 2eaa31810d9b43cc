"""The result of an evaluation, and of a study, which is one of several runs."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import polars as pl
from pydantic import TypeAdapter, ValidationError

from corellarec.base.artifacts import write_sealed, write_text
from corellarec.base.errors import ArtifactError
from corellarec.base.machine import Machine
from corellarec.evaluation.parts import (
    AblationRow,
    BesideRow,
    BudgetPoint,
    CellFacts,
    Costs,
    Curves,
    DataFacts,
    Distillation,
    Network,
    NoHarm,
    PredictorRow,
    ReliabilityBin,
    RouterSummary,
    Segment,
    ThresholdRow,
    TrainingCurve,
)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured on test rows; what is empty or None was not measured or is not known.

    Args:
        name: Of what was measured.
        rows: Test rows.
        users: Their users.
        positives: Test rows with label 1.
        reference: Key of the table's row that the others are compared with.
        router: The router of the first seed.
        table: The predictors.
        segments: Ways to group the rows; the first is by the CRM's confidence.
        curves: Quality against budget, of the first seed.
        budgets: The policies at equal budgets.
        thresholds: The policies' thresholds.
        reliability: Bins by predictor: ``crm``, ``llm`` and ``cascade``, of the first seed.
        settings: The configuration, as in a TOML file.
        data: The log.
        machine: Where it was measured.
        costs: Of both models.
        stages: Training, by ``stage1``, ``stage2`` and ``stage3``, and ``member1`` and on.
        distillation: Of each network of the CRM that the LLM taught.
        networks: Of a CRM that is several, the first first.

    Example:
        >>> import polars as pl
        >>> frame = evaluation.to_frame()  # doctest: +SKIP
        >>> frame.filter(pl.col("predictor") == "cascade")["auc"].item()  # doctest: +SKIP
        0.7568
    """

    name: str
    rows: int
    users: int
    positives: int
    reference: str
    router: RouterSummary
    table: tuple[PredictorRow, ...]
    segments: tuple[Segment, ...]
    curves: Curves
    budgets: tuple[BudgetPoint, ...]
    thresholds: tuple[ThresholdRow, ...]
    reliability: dict[str, tuple[ReliabilityBin, ...]]
    settings: dict[str, Any] | None = None
    data: DataFacts | None = None
    machine: Machine | None = None
    costs: Costs | None = None
    stages: dict[str, TrainingCurve] = field(default_factory=dict)
    distillation: tuple[Distillation, ...] = ()
    networks: tuple[Network, ...] = ()

    def row(self, key: str) -> PredictorRow:
        """The table's row of a key.

        Args:
            key: Such as ``crm_calibrated``, ``llm_calibrated``, ``cascade`` or ``blend_all``.

        Raises:
            KeyError: If there is none.
        """
        for row in self.table:
            if row.key == key:
                return row
        raise KeyError(f"no predictor {key!r}; there are: {', '.join(r.key for r in self.table)}")

    def to_frame(self) -> pl.DataFrame:
        """The main table.

        Returns:
            One row a predictor: ``predictor`` (its key, str), ``name`` (str), ``kind`` (str),
            ``rows``, ``seeds``, ``llm_share`` (0 to 1), ``ms`` and ``tokens`` (for 1,000 rows, null
            where not known), and for each metric of ``auc``, ``log_loss`` (nats), ``accuracy``,
            ``uauc`` and ``calibration_error`` the columns ``auc``, ``auc_low``, ``auc_high`` (its
            95 % interval) and ``auc_over_reference``, ``auc_over_reference_low``,
            ``auc_over_reference_high``; null where it cannot be estimated.
        """
        return pl.DataFrame([flat(row) for row in self.table], infer_schema_length=None).fill_nan(
            None
        )

    def to_json(self) -> str:
        """The whole as JSON text; :meth:`from_json` reads it back."""
        return TypeAdapter(type(self)).dump_json(self, indent=1).decode() + "\n"

    @classmethod
    def from_json(cls, text: str, path: str | Path = "the file of results") -> Self:
        """Read the text of :meth:`to_json`.

        Args:
            text: The JSON.
            path: Where it is from, for the message of an error.

        Raises:
            ArtifactError: If another version wrote it, or it is damaged.
        """
        try:
            return TypeAdapter(cls).validate_json(text)
        except ValidationError as error:
            is_json = all(one["type"] != "json_invalid" for one in error.errors())
            found = "was written by another version" if is_json else "is damaged"
            again = "study NAME" if issubclass(cls, StudyResult) else "evaluate RUN"
            raise ArtifactError(f"{path} {found}: `corellarec {again}` writes it again") from error

    def save(self, path: str | Path) -> None:
        """Write the HTML report if the name ends in ``.html``, else JSON.

        Args:
            path: The file; replaced if it exists.
        """
        from corellarec.evaluation.page import render  # matplotlib is not needed for the rest

        path = Path(path)
        if path.suffix == ".html":
            write_text(path, render(self))
        else:
            write_sealed(path, self.to_json())


def flat(row: PredictorRow) -> dict[str, Any]:
    """A row of the main table as one row of a frame."""
    facts: dict[str, Any] = {
        "predictor": row.key,
        "name": row.name,
        "kind": row.kind,
        "rows": row.rows,
        "seeds": row.seeds,
        "llm_share": row.llm_share,
        "ms": row.ms,
        "tokens": row.tokens,
    }
    for figures, ending in ((row.metrics, ""), (row.over_reference, "_over_reference")):
        for metric, figure in figures.items():
            name = metric + ending
            facts |= {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high}
    return facts


@dataclass(frozen=True, kw_only=True)
class StudyResult(Evaluation):
    """An evaluation of several runs, CRMs and baselines.

    Args:
        spec: The study's file.
        seeds: Of the method and the CRMs.
        validation_log_loss: Nats, by key of a model without an LLM; the lowest is the reference.
        beside: The LLM beside every CRM.
        no_harm: Every deployed cascade against its own CRM.
        ablation: The full method first; empty where the study has none.
        cells: What was run.
    """

    spec: dict[str, Any]
    seeds: tuple[int, ...]
    validation_log_loss: dict[str, float]
    beside: tuple[BesideRow, ...]
    no_harm: tuple[NoHarm, ...]
    ablation: tuple[AblationRow, ...]
    cells: tuple[CellFacts, ...]
