"""Ask once, use for many: what is an LLM's answer worth for the same user's later rows?

The LLM answers every k-th row of each user; its difference from the CRM is carried to the rows in
between, weaker with every row, as a further input of their blend. Blends are fitted and measured
on the validation rows that the LLM scored, cross-fitted over users. No test row is read.

    python benchmarks/carried.py RUN [--json]
    python benchmarks/carried.py --quick [--data PATH] [--set section.key=value] [--json]

RUN has scored validation rows with the LLM (`corellarec run`). Without one, `--quick` trains a
small one on MovieLens-100K.
"""

import argparse
import logging
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from sklearn.model_selection import GroupKFold

from corellarec.base import metrics
from corellarec.base.calibrate import fit_logistic
from corellarec.base.metrics import Floats
from corellarec.config import load_config
from corellarec.run.records import read_run_config
from corellarec.run.scores import scored_rows
from corellarec.run.workspace import Workspace
from harness import emit, parse, parser
from logs import add_data_option, add_set_option, data_settings
from trained import SMALL_RUN, train_run

EVERY = (5, 10)
LAGS = (1, 2, 5, 10, 20)
FADING = (2.0, 5.0, 10.0)  # rows after which a carried answer weighs 1 / e
FOLDS = 10


def main() -> None:
    options = parser(__doc__)
    add_data_option(options)
    add_set_option(options)
    options.add_argument("run", type=Path, metavar="RUN", nargs="?")
    given = parse(options)
    if given.run is None and not given.quick:
        options.error("give RUN, or --quick, which trains its own")
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as folder:
        run = given.run
        if run is None:
            run = Path(folder) / "run"
            settings = [*SMALL_RUN, *data_settings(given), *given.set]
            train_run(load_config(preset="quick", settings=settings), run)
        measure(run, given)


def measure(run: Path, given: argparse.Namespace) -> None:
    """Print and emit what carried answers bring, and what is lost by not asking."""
    workspace = Workspace(read_run_config(run), run, Console(quiet=True))
    found = scored_rows(workspace, "validation", workspace.config.cascade.validation_rows)
    order = np.argsort(found.rows.numpy())  # by user, then by time
    row, label, user = (
        found.rows.numpy()[order],
        found.scores.label[order],
        found.scores.user[order],
    )
    crm, llm = found.scores.crm_logit[order], found.scores.llm_logit[order]
    place = places(row, user)
    difference = fit_logistic(label, llm)(llm) - fit_logistic(label, crm)(crm)

    def blend(*inputs: Floats, free: int = 0) -> Floats:
        """Logits of a blend; each user's rows are answered by one fitted on other users."""
        logit = np.empty(len(label))
        for others, own in GroupKFold(FOLDS).split(crm, groups=user):
            fitted = fit_logistic(label[others], *(x[others] for x in inputs), free=free)
            logit[own] = fitted(*(x[own] for x in inputs))
        return logit

    def show(name: str, logit: Floats) -> dict[str, float]:
        """Print a line of quality, and return it."""
        p = metrics.sigmoid(logit)
        quality = {"auc": metrics.auc(label, p), "log_loss": metrics.log_loss(label, p)}
        print(f"{name:44} AUC {quality['auc']:.4f}  log loss {quality['log_loss']:.5f}")
        return quality

    print(f"{len(row):,} validation rows of {len(np.unique(user)):,} users")
    for lag in LAGS:
        later = np.flatnonzero(place >= lag)
        print(
            f"difference of LLM and CRM, {lag} rows apart: correlation "
            f"{np.corrcoef(difference[later], difference[later - lag])[0, 1]:.2f}"
        )
    alone, everywhere = blend(crm), blend(crm, llm)
    ways = {"none": show("CRM alone", alone), "all": show("LLM on every row", everywhere)}
    for every in EVERY:
        asked = place % every == 0
        last = np.maximum.accumulate(np.where(asked, np.arange(len(row)), 0))
        age, answer = np.arange(len(row)) - last, difference[last]
        plain = f"every {every}th row asked"
        ways[plain] = show(f"{plain} ({asked.mean():.1%})", np.where(asked, everywhere, alone))
        for rows in FADING:
            carried = np.where(asked, 0.0, answer * np.exp(-age / rows))
            logit = np.where(asked, everywhere, blend(crm, carried, free=1))
            name = f"{plain}, carried {rows:g}"
            ways[name] = show(f"  carried, fading over {rows:g} rows", logit)
    emit(given, {"rows": len(row), "ways": ways})


def places(row: NDArray[np.int64], user: NDArray[np.int64]) -> NDArray[np.int64]:
    """``(n,)`` how many rows before it each row has in its piece of a user's history.

    Args:
        row: Row numbers of the log, ascending.
        user: Their users.
    """
    begins = np.r_[True, (np.diff(user) != 0) | (np.diff(row) != 1)]
    at = np.arange(len(row))
    return at - np.maximum.accumulate(np.where(begins, at, 0))


if __name__ == "__main__":
    main()
