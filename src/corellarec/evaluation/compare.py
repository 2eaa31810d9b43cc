"""Several runs on the same test rows, with paired intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from rich.console import Console

from corellarec.base.bootstrap import Bootstrap
from corellarec.base.errors import ConfigError, DataError
from corellarec.evaluation.answers import Answers
from corellarec.evaluation.figures import Figures, Predictor, predictor_rows
from corellarec.evaluation.parts import PredictorRow
from corellarec.evaluation.results import flat
from corellarec.evaluation.run import read_evaluation
from corellarec.run.fit import fit
from corellarec.run.scores import scored_rows
from corellarec.run.status import status
from corellarec.run.workspace import Workspace

COMPARED = {"crm_calibrated": "CRM", "cascade": "cascade"}
SAME = ["user", "item", "time"]  # what makes a test row the same in two runs


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Args:
        runs: Their names; the cascade of the first is the reference.
        rows: Test rows that all of them scored.
        users: Of these.
        positives: Of these.
        left_out: Test rows that only some of them scored.
        table: For each run its calibrated CRM (key ``RUN/crm_calibrated``) and its cascade
            (``RUN/cascade``), with paired differences from the first run's cascade.
    """

    runs: tuple[str, ...]
    rows: int
    users: int
    positives: int
    left_out: int
    table: tuple[PredictorRow, ...]

    def to_frame(self) -> pl.DataFrame:
        """The table, in the columns of :meth:`Evaluation.to_frame`."""
        return pl.DataFrame([flat(row) for row in self.table], infer_schema_length=None).fill_nan(
            None
        )


def compare(runs: Sequence[str | Path], *, bootstrap: int = 1000, seed: int = 0) -> Comparison:
    """Compare finished runs on the test rows that all of them scored.

    Nothing is trained or scored by a language model: its scores of the test rows are in the runs.

    Args:
        runs: Directories of two runs or more, of the same log; the first one's cascade is what the
            others are compared with.
        bootstrap: Resamples of users behind every 95 % interval.
        seed: Of the resamples.

    Returns:
        Every figure; ``to_frame()``.

    Raises:
        ArtifactError: If one is no run, or not finished.
        ConfigError: If fewer than two are given, or one twice.
        DataError: If they have no test row in common, or call the same row's label differently.

    Example:
        >>> found = compare(["runs/quick", "runs/dcnv2"])  # doctest: +SKIP
        >>> found.to_frame()["auc_over_reference"].to_list()  # doctest: +SKIP
        [-0.0058, 0.0, -0.0157, -0.0108]
    """
    names = _names([Path(run) for run in runs])
    parts = [_scored(Path(run), name) for run, name in zip(runs, names, strict=True)]
    common = parts[0][1].select(*SAME, "label", place_0="place")
    for number, (_, frame) in enumerate(parts[1:], 1):
        other = frame.select(*SAME, other="label", **{f"place_{number}": "place"})
        common = common.join(other, on=SAME, how="inner", maintain_order="left")
        if common.is_empty():
            raise DataError(f"{names[number]} and {names[0]} have no test row in common")
        if (differ := common.filter(pl.col("label") != pl.col("other"))).height:
            raise DataError(
                f"{names[number]} and {names[0]} give {differ.height:,} of the same test rows "
                "different labels: runs are compared whose labels follow the same rule "
                "(data.positive_rating)"
            )
        common = common.drop("other")
    first = parts[0][0].scores
    places = [common[f"place_{number}"].to_numpy() for number in range(len(parts))]
    label, user = first.label[places[0]], first.user[places[0]]
    figures = Figures(label, user, Bootstrap(user, bootstrap, seed))
    predictors = [
        Predictor(
            "cascade" if key == "cascade" else "crm",
            f"{name}/{key}",
            f"{name}: {title}",
            [answers.predictions[key][place]],
            float(answers.masks[key][place].mean()),
        )
        for name, (answers, _), place in zip(names, parts, places, strict=True)
        for key, title in COMPARED.items()
    ]
    every = pl.concat([frame.select(SAME) for _, frame in parts]).n_unique()
    return Comparison(
        tuple(names),
        common.height,
        figures.users,
        int(label.sum()),
        every - common.height,
        predictor_rows(figures, predictors, f"{names[0]}/cascade"),
    )


def _names(runs: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as tell them apart."""
    whole = [run.resolve() for run in runs]
    if len(runs) < 2 or len(set(whole)) < len(runs):
        raise ConfigError("compare takes two runs or more, each once")
    for parts in range(1, 1 + max(len(run.parts) for run in whole)):
        names = ["/".join(run.parts[-parts:]) for run in whole]
        if len(set(names)) == len(names):
            return names
    raise AssertionError("resolved paths differ")


def _scored(run: Path, name: str) -> tuple[Answers, pl.DataFrame]:
    """A run's answers to its test rows, and what these rows are."""
    found = status(run)
    if not found.evaluated:
        raise ConfigError(f"{run} is not finished: `corellarec run --resume --out {run}` ends it")
    read_evaluation(run, found.config)  # of its present settings: nothing is computed below
    config = found.config.model_copy(update={"device": "auto"})  # it may be another machine's
    workspace = Workspace(config, run, Console(quiet=True))
    test = scored_rows(workspace, "test", found.config.evaluate.test_rows)
    log, rows = workspace.log, test.rows
    frame = pl.DataFrame(
        {
            "user": log.users["id"].gather(log.user[rows].numpy()),
            "item": log.items["id"].gather(log.item[rows].numpy()),
            "time": log.time[rows].numpy(),
            "label": test.scores.label,
        }
    ).with_row_index("place")
    return Answers(test.scores, fit(workspace)), frame
