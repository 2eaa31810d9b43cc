"""What a budget brings and costs, from the figures of the run that is served."""

from pathlib import Path
from typing import Any

import numpy as np

from corellarec.base.artifacts import read_sealed
from corellarec.base.errors import CorellarecError
from corellarec.evaluation import plots
from corellarec.evaluation.results import Evaluation


def evaluation_of(run: Path | None) -> Evaluation | None:
    """The run's figures, if there are some."""
    if run is None or not (run / "metrics.json").is_file():
        return None
    path = run / "metrics.json"
    try:
        return Evaluation.from_json(read_sealed(path, "write it again"), path)
    except CorellarecError:
        return None


def decision(
    run: Path | None, budget: float, rows: int, price: float, tokens: int
) -> dict[str, Any]:
    """What a budget brings, on the run's test rows, and what it costs.

    Args:
        run: Directory of the run.
        budget: Share of the rows, 0 to 1.
        rows: A day.
        price: Of a million tokens.
        tokens: That the language model computes for a row.
    """
    found = evaluation_of(run)
    if found is None:
        return {"curve": False}
    curves = found.curves
    gain = curves.policies["gain"]

    def at(share: float, values: tuple[float, ...]) -> float:
        return float(np.interp(share, curves.budget, values))

    calls = budget * rows
    return {
        "curve": True,
        "calls": calls,
        "cost": calls * tokens / 1e6 * price,
        "auc": at(budget, gain.auc),
        "auc_crm": at(0.0, gain.auc),
        "log_loss": at(budget, gain.log_loss),
        "log_loss_crm": at(0.0, gain.log_loss),
    }


def figure(run: Path | None, name: str) -> str | None:
    """A figure as SVG; None where there is none of that name."""
    found = evaluation_of(run)
    if found is None:
        return None
    match name:
        case "curves":
            return plots.curves_figure(found.curves)
        case "groups":
            return plots.confidence_figure(found.segments[0])
        case "reliability":
            return plots.reliability_figure(found.reliability)
    return None
