"""What a budget brings and costs, on the run's validation rows; figures of its test rows."""

from pathlib import Path
from typing import Any

from corellarec.base.artifacts import read_sealed
from corellarec.base.errors import CorellarecError
from corellarec.evaluation import plots
from corellarec.evaluation.results import Evaluation
from corellarec.serve.explore.charts import line_chart
from corellarec.serve.explore.validation import BUDGETS, Validation
from corellarec.serve.explore.words import percent


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
    found: Validation, budget: float, rows: int, price: float, tokens: float
) -> dict[str, Any]:
    """What a budget brings on the validation rows, and what it costs.

    Args:
        found: The rows.
        budget: Share of the rows, 0 to 1.
        rows: A day.
        price: Of a million tokens.
        tokens: That the language model computes for a row.
    """
    calls, curve = budget * rows, found.curve()
    chart = line_chart(
        "Log loss on the validation rows against the budget",
        BUDGETS,
        {"cascade": ("cascade", curve), "the CRM alone": ("crm", [curve[0]] * len(curve))},
        (percent(0), percent(1)),
        4,
        mark=budget,
    )
    return {
        "chart": chart,
        "calls": calls,
        "cost": calls * tokens / 1e6 * price,
        "at": found.at(budget),
        "alone": found.at(0.0),
        "groups": found.groups(budget),
        "count": len(found.label),
    }


def figure(run: Path | None, name: str) -> str | None:
    """A figure as SVG; None where there is none of that name."""
    found = evaluation_of(run)
    if found is None:
        return None
    match name:
        case "curves":
            return plots.curves_figure(found.curves, found.budgets)
        case "groups":
            return plots.confidence_figure(found.segments[0])
        case "reliability":
            return plots.reliability_figure(found.reliability)
    return None
