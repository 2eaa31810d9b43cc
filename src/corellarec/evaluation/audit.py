"""Does an expensive model pay? From two columns of scores and a label, whoever made them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corellarec.base.errors import DataError
from corellarec.base.frames import Table, as_frame, ids_of, readable, scan_table
from corellarec.base.metrics import Floats, to_logit
from corellarec.cascade.fit import Population, fit_router
from corellarec.cascade.policy import Known, Policy
from corellarec.cascade.router import Router
from corellarec.cascade.scores import Scores
from corellarec.cascade.tables import read_labels
from corellarec.data.times import read_times
from corellarec.evaluation.evaluate import evaluate_scores
from corellarec.evaluation.results import Evaluation

MIN_ROWS = 200  # fewer labelled rows show nothing either way


@dataclass(frozen=True)
class Audit:
    """Whether routing rows from a cheap model to an expensive one pays.

    Args:
        pays: Whether it does: the gain is significant on the half it was fitted on, and the log
            loss is below the cheap model's, beyond its 95 % interval, on the other half.
        verdict: The answer in one sentence.
        crm, expert: Names of the columns that were compared.
        evaluation: Every figure, on the half that nothing was fitted on.
    """

    pays: bool
    verdict: str
    crm: str
    expert: str
    evaluation: Evaluation

    def to_frame(self) -> pl.DataFrame:
        """The main table: :meth:`Evaluation.to_frame`."""
        return self.evaluation.to_frame()

    def save(self, path: str | Path) -> None:
        """Write the HTML report if the name ends in ``.html``, else JSON.

        Args:
            path: The file; replaced if it exists.
        """
        self.evaluation.save(path)


def audit(
    scores: Table,
    *,
    label: str = "label",
    crm: str = "crm",
    expert: str = "llm",
    user: str | None = None,
    time: str | None = None,
    budget: float = 0.1,
    combine: Literal["blend", "replace"] = "blend",
    rows: int = 200_000,
    bootstrap: int = 100,
    seed: int = 0,
) -> Audit:
    """Measure whether an expensive model pays beside a cheap one, from their scores alone.

    Calibration, blend, policies and the verdict are fitted on one half of the rows, the earlier one
    where there are times, else that of random users; everything is measured on the other half. The
    policies use nothing but the cheap model's score and how many rows a user has had before; the
    one that saves more on the first half is taken.

    Args:
        scores: A table, or its file, with the columns below. Scores between 0 and 1 are taken as
            probabilities, others as logits or as scores on any scale, higher for positives.
        label: Column of the label: 1 or 0, true or false.
        crm: Column of the cheap model's scores.
        expert: Column of the expensive model's.
        user: Column of the user's id; intervals resample users. Without it rows are resampled.
        time: Column of the time.
        budget: Share of rows that the expensive model may answer, 0 to 1.
        combine: What a routed row gets: a calibrated ``blend`` of both scores, or ``replace``.
        rows: Use the rows of random users, about so many, if there are more; 0 uses all. Of
            200,000 rows the intervals are a few thousandths wide.
        bootstrap: Resamples behind every 95 % interval.
        seed: Of the sample, the resamples and the random half.

    Returns:
        The verdict and every figure.

    Raises:
        DataError: If a column is missing, a value cannot be used, or rows or labels are too few.

    Example:
        >>> import numpy as np, polars as pl
        >>> rng = np.random.default_rng(0)
        >>> y = rng.integers(0, 2, 4000)
        >>> a, b = y + rng.normal(size=(2, 4000))
        >>> table = pl.DataFrame({"label": y, "crm": a, "llm": b})
        >>> audit(table, budget=0.5, bootstrap=50).pays
        True
    """
    columns = {"label": label, "crm": crm, "expert": expert, "user": user, "time": time}
    table = _read(scores, {ours: theirs for ours, theirs in columns.items() if theirs})
    if table.height < MIN_ROWS:
        raise DataError(f"scores: {table.height} rows; an audit needs {MIN_ROWS} at least")
    whole = _scores(table)
    if rows and table.height > rows:
        whole = _part(whole, _of_random_users(whole, rows / table.height, seed))
    first = _first_half(whole, has_time=time is not None, seed=seed)
    fitted, held = _part(whole, first), _part(whole, ~first)
    for name, half in (("earlier" if time else "first", fitted), ("other", held)):
        if half.label.min() == half.label.max():
            raise DataError(
                f"scores: every label of the {name} half is {int(half.label[0])}: an audit needs "
                "both labels in both halves"
            )
    population = Population(fitted.known, fitted.label)
    router = fit_router(
        fitted, population, policy="gain", budget=budget, combine=combine, seed=seed
    )
    router = replace(router, policy=_better_policy(router))
    found = evaluate_scores(
        held, router, bootstrap=bootstrap, groups=3, seed=seed, name=f"{expert} beside {crm}"
    )
    gap = found.row("cascade").over_reference["log_loss"]
    pays = router.rule.verdict.helps and gap.high < 0
    share = found.row("cascade").llm_share
    if pays:
        verdict = (
            f"{expert} pays: with {share:.1%} of the rows routed to it, log loss changes by "
            f"{gap.value:+.4f} nats a row (95 % interval {gap.low:+.4f} to {gap.high:+.4f})"
        )
    elif not router.rule.verdict.helps:
        verdict = (
            f"{expert} does not pay at a budget of {budget:.0%}: the half used for fitting shows "
            "no significant gain"
        )
    else:
        verdict = (
            f"not shown: {expert} gains on the half used for fitting, but on the other half log "
            f"loss changes by {gap.value:+.4f} nats a row (95 % interval {gap.low:+.4f} to "
            f"{gap.high:+.4f})"
        )
    return Audit(pays, verdict, crm, expert, found)


def _better_policy(router: Router) -> Policy:
    """The policy that saves more in all on the half it was fitted on, cross-fitted."""

    def saved(policy: Policy) -> float:
        verdict = router.rules[policy].verdict
        return verdict.gain * verdict.routed

    return max(router.rules, key=saved)


def _read(scores: Table, columns: dict[str, str]) -> pl.DataFrame:
    """The columns that are used, under our names."""
    if isinstance(scores, str | Path):
        table = scan_table(Path(scores), list(columns.values()))
    else:
        table = as_frame(scores, "scores", list(columns.values())).lazy()
    with readable("scores"):
        return table.select(pl.col(theirs).alias(o) for o, theirs in columns.items()).collect()


def _scores(table: pl.DataFrame) -> Scores:
    """Both columns as logits, rows sorted by time."""
    if "time" in table.columns:
        table = table[np.argsort(read_times(table, "scores").to_numpy(), kind="stable")]
    user = np.arange(table.height)
    if "user" in table.columns:
        user = ids_of(table, "user", "scores").rank("dense").to_numpy().astype(np.int64) - 1
    earlier = np.zeros(table.height)
    if "user" in table.columns and "time" in table.columns:
        counts = pl.DataFrame({"user": user}).select(pl.int_range(pl.len()).over("user"))
        earlier = counts.to_series().to_numpy().astype(np.float64)
    known = Known(
        crm_logit=_logits(table["crm"], "crm"),
        history_length=earlier,
        item_count=np.zeros(table.height),
        liked_share=np.full(table.height, 0.5),
    )
    return Scores(
        user=user,
        label=read_labels(table, 0.5, "scores").to_numpy(),
        known=known,
        llm_logit=_logits(table["expert"], "expert"),
    )


def _logits(column: pl.Series, name: str) -> Floats:
    """Scores as logits: probabilities are converted, other scales brought to unit variance."""
    score = column.cast(pl.Float64, strict=False)
    bad = ~score.is_finite().fill_null(value=False)
    if bad.any():
        row = int(bad.arg_true()[0])
        raise DataError(
            f"scores, row {row + 1}: {name} {column[row]!r} is not a number; {int(bad.sum())} such "
            "row(s) in all"
        )
    values = score.to_numpy()
    if values.min() >= 0 and values.max() <= 1:
        return to_logit(values)
    return (values - values.mean()) / max(float(values.std()), 1e-9)


def _of_random_users(rows: Scores, share: float, seed: int) -> NDArray[np.bool_]:
    """Rows of a random share of the users."""
    users = int(rows.user.max()) + 1
    chosen = np.random.default_rng(seed).permutation(users) < max(2, round(share * users))
    return chosen[rows.user]


def _first_half(rows: Scores, *, has_time: bool, seed: int) -> NDArray[np.bool_]:
    """Rows to fit on: the earlier half, or those of random users."""
    if has_time:
        return np.arange(len(rows.label)) < len(rows.label) // 2
    users = np.unique(rows.user, return_inverse=True)[1]
    count = int(users.max()) + 1
    return (np.random.default_rng(seed).permutation(count) < count // 2)[users]


def _part(rows: Scores, which: NDArray[np.bool_]) -> Scores:
    return Scores(
        user=rows.user[which],
        label=rows.label[which],
        known=rows.known[which],
        llm_logit=rows.llm_logit[which],
    )
