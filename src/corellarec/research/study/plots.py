"""The study's figures, as SVG text."""

from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from corellarec.evaluation.plots import COLOURS, STYLE, svg

TITLES = {"auc": "AUC", "log_loss": "Log loss (nats)"}
BARS = (COLOURS["crm"], COLOURS["llm"], "#f2b48f", "#c9a0dc", "#b9a44c")
POLICIES = {
    "gain": ("most promising first (gain)", COLOURS["cascade"], "-"),
    "entropy": ("least confident first (entropy)", COLOURS["llm"], "-"),
    "random": ("random", COLOURS["random"], "-"),
    "oracle": ("oracle (knows the labels)", COLOURS["oracle"], "--"),
}


def confidence_figure(segment: dict[str, Any]) -> str:
    """The paper's Figure 1: every predictor in each group by the CRM's confidence."""
    groups = [group for group in segment["groups"] if "predictors" in group]
    if not groups:
        return ""
    names = list(groups[0]["predictors"])
    colours = [*BARS[: len(names) - 1], COLOURS["cascade"]]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        axes = figure.subplots(1, 2)
        width = 0.82 / len(names)
        for axis, (metric, title) in zip(axes, TITLES.items(), strict=True):
            for place, (name, colour) in enumerate(zip(names, colours, strict=True)):
                found = [group["predictors"][name][metric] for group in groups]
                values = [one["value"] for one in found]
                errors = [
                    [max(0.0, one["value"] - one["low"]) for one in found],
                    [max(0.0, one["high"] - one["value"]) for one in found],
                ]
                at = [i + (place - (len(names) - 1) / 2) * width for i in range(len(groups))]
                axis.bar(at, values, width * 0.94, color=colour, label=name, yerr=errors,
                         error_kw={"lw": 1, "ecolor": "#3a4150", "capsize": 2})  # fmt: skip
            ticks = [group["name"] for group in groups]
            ticks[0] += "\nleast confident"
            ticks[-1] += "\nmost confident"
            axis.set_xticks(range(len(groups)), ticks)
            axis.grid(visible=False, axis="x")
            if metric == "auc":
                axis.set_ylim(0.5, None)
            axis.set_title(title, loc="left", fontweight="bold", fontsize=11)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center",
                      ncols=len(names), frameon=False, fontsize=9)  # fmt: skip
        return svg(figure)


def segments_figure(segments: list[dict[str, Any]]) -> str:
    """What each language model is ahead of the CRM by, in every group, with its interval."""
    lines = [
        (segment["title"], group)
        for segment in segments
        for group in segment["groups"]
        if "predictors" in group
    ]
    if not lines:
        return ""
    named = [name for name in lines[0][1]["predictors"] if name.startswith("LLM")]
    heights, places, at = [], [], 0.0
    for number, (title, _) in enumerate(lines):
        at += 1.0 if number and title == lines[number - 1][0] else 2.0
        places.append(at)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 0.24 * at + 1.2), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for axis, (metric, title) in zip(axes, TITLES.items(), strict=True):
            for shift, (name, colour) in enumerate(zip(named, BARS[1:], strict=False)):
                gaps = [group["predictors"][name][metric]["over"] for _, group in lines]
                values = [gap["value"] for gap in gaps]
                errors = [
                    [max(0.0, gap["value"] - gap["low"]) for gap in gaps],
                    [max(0.0, gap["high"] - gap["value"]) for gap in gaps],
                ]
                heights = [y + 0.28 * (shift - (len(named) - 1) / 2) for y in places]
                axis.errorbar(values, heights, xerr=errors, fmt="o", ms=4, lw=1.2, color=colour,
                              label=name)  # fmt: skip
            axis.axvline(0, color="#3a4150", lw=1)
            axis.locator_params(axis="x", nbins=6)
            axis.set_title(f"{title}, minus the CRM's", loc="left", fontweight="bold", fontsize=11)
        axes[0].set_yticks(places, [f"{group['name']}  ({group['rows']:,})" for _, group in lines])
        axes[0].tick_params(axis="y", labelsize=8.5)
        for number, (title, _) in enumerate(lines):
            if number == 0 or title != lines[number - 1][0]:
                axes[0].annotate(title, (0, places[number] - 0.85), fontsize=8.5,
                                 fontweight="bold", xycoords=("axes fraction", "data"),
                                 ha="right", va="center")  # fmt: skip
        axes[0].set_ylim(at + 1, 0.6)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center",
                      ncols=len(named), frameon=False, fontsize=9)  # fmt: skip
        return svg(figure)


def routing_figure(routing: dict[str, Any]) -> str:
    """AUC and log loss against the share of rows that the language model answers."""
    share = [100 * budget for budget in routing["budget"]]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.9), layout="constrained")
        axes = figure.subplots(1, 2)
        for axis, (metric, title) in zip(axes, TITLES.items(), strict=True):
            real = []
            for policy, (label, colour, style) in POLICIES.items():
                values = routing["policies"][policy][metric]
                axis.plot(share, values, style, color=colour, label=label, lw=2)
                real += values if policy != "oracle" else []
            axis.axvline(100 * routing["configured"], color="#5d6678", lw=1.2, ls=":")
            # The oracle's bound would flatten what a real policy can reach.
            pad = max(1e-3, 0.25 * (max(real) - min(real)))
            axis.set_ylim(min(real) - pad, max(real) + pad)
            axis.set_xlabel("share of rows the LLM answers, %")
            axis.set_title(title, loc="left", fontweight="bold", fontsize=11)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2,
                      frameon=False, fontsize=9)  # fmt: skip
        return svg(figure)
