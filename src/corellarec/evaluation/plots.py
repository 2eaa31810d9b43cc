"""The report's figures, as SVG text; empty where there is nothing to show."""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isfinite
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from corellarec.evaluation.parts import Curves, Figure, ReliabilityBin, Segment, TrainingCurve

INK = "#3a4150"
COLOURS = {
    "crm": "#4269d0",
    "llm": "#e8743b",
    "cascade": "#2a9d6f",
    "random": "#8a8f98",
    "oracle": "#b9a44c",
}
BARS = (COLOURS["crm"], COLOURS["llm"], "#f2b48f", "#c9a0dc", "#b9a44c")
TITLES = {"auc": "AUC", "log_loss": "Log loss (nats)"}
POLICIES = {
    "gain": ("highest expected gain first (gain)", COLOURS["cascade"]),
    "entropy": ("least confident first (entropy)", COLOURS["llm"]),
    "random": ("random order", COLOURS["random"]),
    "oracle": ("oracle, which knows the labels", COLOURS["oracle"]),
}
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e7e9ee",
    "axes.axisbelow": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "corellarec",
}


@contextmanager
def _canvas(width: float, height: float) -> Iterator[Canvas]:
    with mpl.rc_context(STYLE):
        yield Canvas(figsize=(width, height), layout="constrained")


def _svg(canvas: Canvas) -> str:
    buffer = io.StringIO()
    canvas.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _title(axis: Axes, title: str) -> None:
    axis.set_title(title, loc="left", fontweight="bold", fontsize=11)


def _legend(canvas: Canvas, columns: int) -> None:
    canvas.legend(*canvas.axes[0].get_legend_handles_labels(), loc="outside lower center",
                  ncols=columns, frameon=False, fontsize=9)  # fmt: skip


def curves_figure(curves: Curves) -> str:
    """AUC and log loss against the share of rows that the LLM answers."""
    share = [100 * budget for budget in curves.budget]
    with _canvas(9, 4.1) as canvas:
        for axis, (metric, title) in zip(canvas.subplots(1, 2), TITLES.items(), strict=True):
            lines = {name: getattr(curves.policies[name], metric) for name in POLICIES}
            low, high = _range(line for name, line in lines.items() if name != "oracle")
            for name, (label, colour) in POLICIES.items():
                is_cut = min(lines[name]) < low or max(lines[name]) > high
                label += " (leaves the picture)" if is_cut else ""
                style = "--" if name == "oracle" else "-"
                axis.plot(share, lines[name], style, color=colour, label=label, lw=2)
            axis.axhline(lines["gain"][0], color=COLOURS["crm"], lw=1, label="CRM alone")
            axis.axvline(100 * curves.configured, color=INK, lw=1.4, ls=":",
                         label=f"configured budget, {100 * curves.configured:.0f} %")  # fmt: skip
            axis.set_ylim(low, high)
            axis.set_xlabel("share of rows the LLM answers, %")
            _title(axis, title)
        _legend(canvas, 2)
        return _svg(canvas)


def _range(lines: Iterable[Sequence[float]]) -> tuple[float, float]:
    """Limits for what real policies reach, which the oracle's bound would flatten."""
    real = [value for line in lines for value in line if isfinite(value)] or [0.0]
    pad = max(1e-3, 0.35 * (max(real) - min(real)))
    return min(real) - pad, max(real) + pad


def confidence_figure(segment: Segment) -> str:
    """The paper's Figure 1: every predictor in each group by the CRM's confidence."""
    groups = [group for group in segment.groups if group.predictors]
    if not groups:
        return ""
    names = list(groups[0].predictors)
    colours = [*BARS[: len(names) - 1], COLOURS["cascade"]]
    width = 0.82 / len(names)
    with _canvas(9, 3.6) as canvas:
        for axis, (metric, title) in zip(canvas.subplots(1, 2), TITLES.items(), strict=True):
            for place, (name, colour) in enumerate(zip(names, colours, strict=True)):
                figures = [group.predictors[name].metrics[metric] for group in groups]
                at = [i + (place - (len(names) - 1) / 2) * width for i in range(len(groups))]
                axis.bar(at, [one.value for one in figures], width * 0.94, color=colour, label=name,
                         yerr=_errors(figures),
                         error_kw={"lw": 1, "ecolor": INK, "capsize": 2})  # fmt: skip
                for x, one in zip(at, figures, strict=True):
                    axis.annotate(f"{one.value:.3f}", (x, 0.02), rotation=90, fontsize=7.5,
                                  color="white", ha="center", va="bottom",
                                  xycoords=("data", "axes fraction"))  # fmt: skip
            ticks = [group.name for group in groups]
            ticks[0] += "\nleast confident"
            ticks[-1] += "\nmost confident" if len(ticks) > 1 else ""
            axis.set_xticks(range(len(groups)), ticks)
            axis.grid(visible=False, axis="x")
            if metric == "auc":
                lowest = min(
                    g.predictors[name].metrics["auc"].value for g in groups for name in names
                )
                axis.set_ylim(min(0.5, lowest) - 0.05, None)
            _title(axis, title)
        _legend(canvas, len(names))
        return _svg(canvas)


def _errors(figures: Sequence[Figure]) -> list[list[float]]:
    """Lengths of error bars below and above; none where there is no interval."""

    def length(value: float) -> float:
        return value if value > 0 else 0.0  # NaN is not above zero

    return [
        [length(one.value - one.low) for one in figures],
        [length(one.high - one.value) for one in figures],
    ]


def segments_figure(segments: Sequence[Segment]) -> str:
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
    with _canvas(9, 0.24 * at + 1.2) as canvas:
        axes = canvas.subplots(1, 2, sharey=True)
        for axis, (metric, title) in zip(axes, TITLES.items(), strict=True):
            for shift, (name, colour) in enumerate(zip(named, BARS[1:], strict=False)):
                gaps = [group.predictors[name].over_reference[metric] for _, group in lines]
                heights = [y + 0.28 * (shift - (len(named) - 1) / 2) for y in places]
                axis.errorbar([gap.value for gap in gaps], heights, xerr=_errors(gaps), fmt="o",
                              ms=4, lw=1.2, color=colour, label=name)  # fmt: skip
            axis.axvline(0, color=INK, lw=1)
            axis.locator_params(axis="x", nbins=6)
            _title(axis, f"{title}, minus the CRM's")
        axes[0].set_yticks(places, [f"{group.name}  ({group.rows:,})" for _, group in lines])
        axes[0].tick_params(axis="y", labelsize=8.5)
        for place, (title, _), first in zip(places, lines, is_first, strict=True):
            if first:
                axes[0].annotate(title, (0, place - 0.85), fontsize=8.5, fontweight="bold",
                                 xycoords=("axes fraction", "data"), ha="right",
                                 va="center")  # fmt: skip
        axes[0].set_ylim(at + 1, 0.6)
        _legend(canvas, len(named))
        return _svg(canvas)


def reliability_figure(reliability: Mapping[str, Sequence[ReliabilityBin]]) -> str:
    """Predicted against observed rate of positives; on the diagonal is calibrated."""
    with _canvas(4.4, 3.8) as canvas:
        axis = canvas.subplots()
        axis.plot([0, 1], [0, 1], color="#c5c9d2", lw=1)
        for name, label in (("crm", "raw CRM"), ("llm", "raw LLM"), ("cascade", "cascade")):
            bins = reliability[name]
            axis.plot([b.p for b in bins], [b.rate for b in bins], "o-", ms=4, lw=1.6,
                      color=COLOURS[name], label=label)  # fmt: skip
        axis.set_xlabel("predicted probability")
        axis.set_ylabel("observed share of positives")
        axis.legend(frameon=False, fontsize=9)
        return _svg(canvas)


def training_figure(stages: Mapping[str, TrainingCurve]) -> str:
    """Validation log loss of each model over the steps of each stage."""
    with _canvas(9, 2.8) as canvas:
        axes = canvas.subplots(1, len(stages), squeeze=False)[0]
        for axis, (name, stage) in zip(axes, stages.items(), strict=True):
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
            _title(axis, name.replace("stage", "Stage "))
            axis.set_xlabel("step")
        axes[0].set_ylabel("validation log loss (nats)")
        return _svg(canvas)
