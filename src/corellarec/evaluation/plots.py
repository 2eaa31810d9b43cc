"""The report's figures, as SVG text; empty where there is nothing to show."""

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isfinite
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from corellarec.evaluation.look import colours, sheet
from corellarec.evaluation.parts import (
    BudgetPoint,
    Curves,
    Figure,
    ReliabilityBin,
    Segment,
    TrainingCurve,
)
from corellarec.evaluation.text import step_title

COLOURS = colours()
NAMES = {colour: name for name, colour in COLOURS.items()}
LLMS = tuple(COLOURS[name] for name in ("llm", "llm2", "llm3", "llm4"))
INK, PAPER = COLOURS["ink"], COLOURS["paper"]
TITLES = {"auc": "AUC", "log_loss": "Log loss (nats)"}
BOTH = tuple(TITLES)
POLICIES = {
    "gain": ("highest expected gain first (gain)", COLOURS["cascade"]),
    "entropy": ("least confident first (entropy)", COLOURS["llm"]),
    "random": ("random order", COLOURS["random"]),
    "oracle": ("oracle, which knows the labels", COLOURS["oracle"]),
}
PANEL = 4.0  # width of a panel in inches, such that its text can be read on a phone
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": COLOURS["soft"],
    "axes.prop_cycle": f"cycler('color', ['{INK}'])",
    "xtick.color": COLOURS["soft"],
    "ytick.color": COLOURS["soft"],
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": COLOURS["line"],
    "axes.axisbelow": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "corellarec",
}


@contextmanager
def open_canvas(width: float, height: float) -> Iterator[Canvas]:
    """A figure in the style of reports, its sides in inches."""
    with mpl.rc_context(STYLE):
        yield Canvas(figsize=(width, height), layout="constrained")


def as_svg(canvas: Canvas, words: str) -> str:
    """The picture as SVG that follows the colours of the page, or of the reader's scheme.

    Args:
        canvas: What was drawn, in the colours of light pages.
        words: What it shows, for those who do not see it.
    """
    buffer = io.StringIO()
    canvas.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{words}"', 1)
    text = re.sub("#[0-9a-f]{6}", lambda found: _named(found[0]), text)
    return text.replace('<style type="text/css">', f'<style type="text/css">{sheet("colours")}', 1)


def _named(colour: str) -> str:
    return f"var(--{NAMES[colour]})" if colour in NAMES else colour


def set_title(axis: Axes, title: str) -> None:
    """Write a panel's title."""
    axis.set_title(title, loc="left", fontweight="bold", fontsize=11)


def _legend(canvas: Canvas, columns: int) -> None:
    canvas.legend(*canvas.axes[0].get_legend_handles_labels(), loc="outside lower center",
                  ncols=columns, frameon=False, fontsize=9)  # fmt: skip


def curves_figure(
    curves: Curves, budgets: Sequence[BudgetPoint] = (), metric: str | None = None
) -> str:
    """Quality against the share of rows that the LLM answers.

    Args:
        curves: The lines.
        budgets: Where the interval of the gain over the CRM is known, which is drawn as a band.
        metric: ``auc`` or ``log_loss``; both side by side without it.
    """
    metrics = (metric,) if metric else BOTH
    share = [100 * budget for budget in curves.budget]
    with open_canvas(PANEL * len(metrics), 4.1 if len(metrics) > 1 else 4.6) as canvas:
        axes = canvas.subplots(1, len(metrics), squeeze=False)[0]
        for axis, shown in zip(axes, metrics, strict=True):
            lines = {name: getattr(curves.policies[name], shown) for name in POLICIES}
            places, *ends = _gain_band(lines["gain"], curves, budgets, shown)
            real = [line for name, line in lines.items() if name != "oracle"]
            low, high = _range([*real, *ends])
            for name, (label, colour) in POLICIES.items():
                style = "--" if name == "oracle" else "-"
                axis.plot(share, lines[name], style, color=colour, label=label, lw=2)
            axis.fill_between(places, *ends, color=COLOURS["cascade"], alpha=0.2, lw=0)
            axis.axhline(lines["gain"][0], color=COLOURS["crm"], lw=1.6, zorder=1.5,
                         label="CRM alone")  # fmt: skip
            axis.axvline(100 * curves.configured, color=INK, lw=1.8, ls=(0, (4, 2)), zorder=1.5,
                         label=f"configured budget, {100 * curves.configured:.0f} %")  # fmt: skip
            _say_bound(axis, share, lines["oracle"], low, high)
            axis.set_ylim(low, high)
            axis.set_xlabel("share of rows the LLM answers, %")
            set_title(axis, TITLES[shown])
        _legend(canvas, len(metrics))
        return as_svg(canvas, f"{_words(metrics)} against the share of rows the LLM answers")


def _gain_band(
    line: Sequence[float], curves: Curves, budgets: Sequence[BudgetPoint], metric: str
) -> tuple[list[float], list[float], list[float]]:
    """Budgets (%) from none on, and both ends of the gain's interval over the CRM there."""
    known = [point for point in budgets if isfinite(point.gain_over_crm[metric].low)]
    if not known:
        return [], [], []
    places = [0.0, *(point.budget for point in known)]
    gaps = [point.gain_over_crm[metric] for point in known]
    # A study's gain is a mean over seeds, and its curve that of the first.
    values = np.interp(places, curves.budget, line)
    low = np.array([0.0, *(gap.low - gap.value for gap in gaps)])
    high = np.array([0.0, *(gap.high - gap.value for gap in gaps)])
    return [100 * place for place in places], (values + low).tolist(), (values + high).tolist()


def _say_bound(
    axis: Axes, share: Sequence[float], oracle: Sequence[float], low: float, high: float
) -> None:
    """Where the oracle goes beyond the picture, how far."""
    best = max(oracle, key=lambda value: max(low - value, value - high))
    if not (best < low or best > high):  # NaN is not known
        return
    above = best > high
    axis.annotate(
        f"oracle {'up' if above else 'down'} to {best:.4f}, at {share[oracle.index(best)]:.0f} %",
        (0.55, 0.97 if above else 0.03), xycoords="axes fraction", ha="center",
        va="top" if above else "bottom", fontsize=9, color=COLOURS["oracle"],
    )  # fmt: skip


def _range(lines: Iterable[Sequence[float]]) -> tuple[float, float]:
    """Limits for what real policies reach, which the oracle's bound would flatten."""
    real = [value for line in lines for value in line if isfinite(value)] or [0.0]
    pad = max(1e-3, 0.2 * (max(real) - min(real)))
    return min(real) - pad, max(real) + pad


def confidence_figure(segment: Segment, metric: str | None = None) -> str:
    """The paper's Figure 1: every predictor in each group by the CRM's confidence.

    Args:
        segment: The groups.
        metric: ``auc`` or ``log_loss``; both side by side without it.
    """
    metrics = (metric,) if metric else BOTH
    groups = [group for group in segment.groups if group.predictors]
    if not groups:
        return ""
    names = list(groups[0].predictors)
    of_models = [COLOURS["crm"], *LLMS][: len(names) - 1]
    width = 0.82 / len(names)
    with open_canvas(PANEL * len(metrics), 3.6) as canvas:
        axes = canvas.subplots(1, len(metrics), squeeze=False)[0]
        for axis, shown in zip(axes, metrics, strict=True):
            for place, (name, colour) in enumerate(
                zip(names, [*of_models, COLOURS["cascade"]], strict=True)
            ):
                figures = [group.predictors[name].metrics[shown] for group in groups]
                at = [i + (place - (len(names) - 1) / 2) * width for i in range(len(groups))]
                axis.bar(at, [one.value for one in figures], width * 0.94, color=colour, label=name,
                         yerr=_errors(figures),
                         error_kw={"lw": 1, "ecolor": INK, "capsize": 2})  # fmt: skip
                for x, one in zip(at, figures, strict=True):
                    axis.annotate(f"{one.value:.3f}", (x, 0.02), rotation=90, fontsize=7.5,
                                  color=PAPER, ha="center", va="bottom",
                                  xycoords=("data", "axes fraction"))  # fmt: skip
            ticks = [group.name for group in groups]
            ticks[0] += "\nleast confident"
            ticks[-1] += "\nmost confident" if len(ticks) > 1 else ""
            axis.set_xticks(range(len(groups)), ticks)
            axis.grid(visible=False, axis="x")
            if shown == "auc":
                lowest = min(
                    g.predictors[name].metrics["auc"].value for g in groups for name in names
                )
                axis.set_ylim(min(0.5, lowest) - 0.05, None)
            set_title(axis, TITLES[shown])
        _legend(canvas, min(3, len(names)) if len(metrics) == 1 else len(names))
        return as_svg(canvas, f"{_words(metrics)} of each model by the CRM's confidence")


def _words(metrics: Sequence[str]) -> str:
    return " and ".join(TITLES[metric] for metric in metrics)


def _errors(figures: Sequence[Figure]) -> list[list[float]]:
    """Lengths of error bars below and above; none where there is no interval."""

    def length(value: float) -> float:
        return value if value > 0 else 0.0  # NaN is not above zero

    return [
        [length(one.value - one.low) for one in figures],
        [length(one.high - one.value) for one in figures],
    ]


def segments_figure(segments: Sequence[Segment], metric: str) -> str:
    """What each LLM is ahead of the CRM by, in every group, with its interval."""
    lines = [
        (segment.title, group) for segment in segments for group in segment.groups
        if group.predictors
    ]  # fmt: skip
    if not lines:
        return ""
    named = [name for name in lines[0][1].predictors if name.startswith("LLM")]
    is_first = [n == 0 or title != lines[n - 1][0] for n, (title, _) in enumerate(lines)]
    places, at = [], 0.0
    for first in is_first:
        at += 2.0 if first else 1.0
        places.append(at)
    with open_canvas(PANEL, 0.24 * at + 1.2) as canvas:
        axis = canvas.subplots()
        for shift, (name, colour) in enumerate(zip(named, LLMS, strict=False)):
            gaps = [group.predictors[name].over_reference[metric] for _, group in lines]
            heights = [y + 0.28 * (shift - (len(named) - 1) / 2) for y in places]
            axis.errorbar([gap.value for gap in gaps], heights, xerr=_errors(gaps), fmt="o",
                          ms=4, lw=1.2, color=colour, label=name)  # fmt: skip
        axis.axvline(0, color=COLOURS["crm"], lw=1.6)
        axis.locator_params(axis="x", nbins=4)
        axis.set_xlabel("minus the CRM's")
        set_title(axis, TITLES[metric])
        axis.set_yticks(places, [f"{group.name}  ({group.rows:,})" for _, group in lines])
        axis.tick_params(axis="y", labelsize=8.5)
        for place, (title, _), first in zip(places, lines, is_first, strict=True):
            if first:
                axis.annotate(title, (0, place - 0.85), fontsize=8.5, fontweight="bold",
                              xycoords=("axes fraction", "data"), ha="right",
                              va="center")  # fmt: skip
        axis.set_ylim(at + 1, 0.6)
        _legend(canvas, 1)
        return as_svg(canvas, f"{TITLES[metric]} of the LLM minus the CRM's in groups of rows")


def reliability_figure(reliability: Mapping[str, Sequence[ReliabilityBin]]) -> str:
    """Predicted against observed rate of positives; on the diagonal is calibrated."""
    with open_canvas(PANEL, 3.8) as canvas:
        axis = canvas.subplots()
        axis.plot([0, 1], [0, 1], color=COLOURS["random"], lw=1.4, ls=(0, (4, 2)))
        for name, label in (("crm", "raw CRM"), ("llm", "raw LLM"), ("cascade", "cascade")):
            bins = reliability[name]
            axis.plot([b.p for b in bins], [b.rate for b in bins], "o-", ms=4, lw=1.6,
                      color=COLOURS[name], label=label)  # fmt: skip
        axis.set_xlabel("predicted probability")
        axis.set_ylabel("observed share of positives")
        axis.legend(frameon=False, fontsize=9)
        return as_svg(canvas, "Observed share of positives against predicted probability")


def training_figure(name: str, stage: TrainingCurve) -> str:
    """Validation log loss of each model over the steps of a stage."""
    title = step_title(name).capitalize()
    with open_canvas(PANEL, 2.8) as canvas:
        axis = canvas.subplots()
        for model in ("crm", "llm"):
            points = [
                (record["step"], record[f"{model}_log_loss"])
                for record in stage.history
                if f"{model}_log_loss" in record
            ]
            if points:
                steps, values = zip(*points, strict=True)
                axis.plot(steps, values, "o-", ms=4, color=COLOURS[model], label=model.upper())
        if axis.lines:
            axis.legend(frameon=False, fontsize=9)
        set_title(axis, title)
        axis.set_xlabel("step")
        axis.set_ylabel("validation log loss (nats)")
        return as_svg(canvas, f"{title}: validation log loss of each model")
