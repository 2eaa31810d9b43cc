"""The report's figures, as SVG text."""

import io
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

COLOURS = {
    "crm": "#4269d0",
    "llm": "#e8743b",
    "cascade": "#2a9d6f",
    "random": "#8a8f98",
    "oracle": "#b9a44c",
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


def svg(figure: Figure) -> str:
    """A figure as the text of an SVG element."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def curve_figure(curve: dict[str, Any], budget: float) -> str:
    """AUC and log loss against the share of rows the language model sees."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.9), layout="constrained")
        axes = figure.subplots(1, 2)
        share = [100 * value for value in curve["budget"]]
        names = {
            "oracle": "oracle (knows the labels)",
            "gain": "most promising first (gain)",
            "entropy": "least confident first (entropy)",
            "random": "random",
        }
        colours = {"gain": "cascade", "entropy": "llm", "random": "random", "oracle": "oracle"}
        for axis, metric, title in zip(
            axes, ("auc", "log_loss"), ("AUC", "Log loss (nats)"), strict=True
        ):
            for name, label in names.items():
                style = "--" if name == "oracle" else "-"
                colour = COLOURS[colours[name]]
                axis.plot(share, curve[name][metric], style, color=colour, label=label, lw=2)
            axis.axhline(curve["entropy"][metric][0], color=COLOURS["crm"], lw=1, label="CRM alone")
            axis.axvline(100 * budget, color="#c5c9d2", lw=1, ls=":")
            # The oracle's bound would flatten what a real policy can reach.
            real = [v for name in ("gain", "entropy", "random") for v in curve[name][metric]]
            pad = max(1e-3, 0.6 * (max(real) - min(real)))
            axis.set_ylim(min(real) - pad, max(real) + pad)
            axis.set_xlabel("share of rows the LLM answers, %")
            axis.set_title(title, loc="left", fontweight="bold", fontsize=11)
        figure.legend(
            *axes[0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=3,
            frameon=False,
            fontsize=9,
        )
        return svg(figure)


def groups_figure(groups: list[dict[str, Any]]) -> str:
    """AUC of both models in each group by CRM confidence."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.2), layout="constrained")
        axes = figure.subplots(1, 2)
        places = range(len(groups))
        for axis, metric, title in zip(
            axes, ("auc", "log_loss"), ("AUC", "Log loss (nats)"), strict=True
        ):
            for shift, (name, key) in zip(
                (-0.2, 0.2), (("crm", "CRM"), ("llm", "LLM")), strict=True
            ):
                values = [group[f"{name}_calibrated"][metric] for group in groups]
                bars = axis.bar(
                    [p + shift for p in places], values, 0.38, color=COLOURS[name], label=key
                )
                axis.bar_label(bars, fmt="%.3f", fontsize=8.5, padding=2)
            labels = [f"group {group['group']}" for group in groups]
            labels[0] += "\nleast confident"
            labels[-1] += "\nmost confident"
            axis.set_xticks(list(places), labels)
            if metric == "auc":
                axis.set_ylim(0.5, None)
            axis.margins(y=0.15)
            axis.grid(visible=False, axis="x")
            axis.set_title(title, loc="left", fontweight="bold", fontsize=11)
        axes[0].legend(frameon=False, ncols=2, fontsize=9)
        return svg(figure)


def reliability_figure(reliability: dict[str, list[dict[str, float]]]) -> str:
    """Predicted against observed rate of positives; on the diagonal is calibrated."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.4, 3.8), layout="constrained")
        axis = figure.subplots()
        axis.plot([0, 1], [0, 1], color="#c5c9d2", lw=1)
        for name, label in (("crm", "CRM"), ("llm", "LLM"), ("cascade", "cascade")):
            bins = reliability[name]
            axis.plot(
                [b["p"] for b in bins],
                [b["rate"] for b in bins],
                "o-",
                ms=4,
                lw=1.6,
                color=COLOURS[name],
                label=label,
            )
        axis.set_xlabel("predicted probability")
        axis.set_ylabel("observed share of positives")
        axis.legend(frameon=False, fontsize=9)
        return svg(figure)


def training_figure(stages: dict[str, Any]) -> str:
    """Validation log loss of each model over the steps of each stage."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 2.8), layout="constrained")
        axes = figure.subplots(1, len(stages), squeeze=False)[0]
        for axis, (name, stage) in zip(axes, stages.items(), strict=True):
            for model in ("crm", "llm"):
                points = [
                    (record["step"], record[f"{model}_log_loss"])
                    for record in stage["history"]
                    if f"{model}_log_loss" in record
                ]
                if points:
                    steps, values = zip(*points, strict=True)
                    axis.plot(steps, values, "o-", ms=4, color=COLOURS[model], label=model.upper())
            axis.set_title(
                name.replace("stage", "Stage "), loc="left", fontweight="bold", fontsize=11
            )
            axis.set_xlabel("step")
            axis.legend(frameon=False, fontsize=9)
        axes[0].set_ylabel("validation log loss (nats)")
        return svg(figure)
