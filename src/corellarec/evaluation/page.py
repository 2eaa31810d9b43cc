"""The report of a run, from its ``metrics.json`` alone: a terminal table and one HTML file."""

from importlib import resources
from typing import Any

import jinja2
from rich.console import Group
from rich.table import Table

from corellarec.evaluation import plots

ROWS = {
    "crm": "CRM alone",
    "crm_calibrated": "CRM, calibrated",
    "llm": "LLM alone",
    "llm_calibrated": "LLM, calibrated",
    "paper": "cascade as in the paper (entropy, replace, raw)",
    "replace": "cascade, entropy, replace",
    "blend_entropy": "cascade, entropy, blend",
    "blend_gain": "cascade, gain, blend",
    "blend_all": "blend on every row",
    "cascade": "shipped cascade",
}
COLUMNS = {
    "auc": "AUC",
    "log_loss": "log loss",
    "accuracy": "ACC",
    "calibration_error": "calibration error",
}


def tables(result: dict[str, Any]) -> Group:
    """The main table and the groups' table, for the terminal."""
    test = result["test"]
    main = Table(title=f"{test_rows(result)}, 95 % intervals", title_justify="left")
    main.add_column("")
    main.add_column("LLM calls", justify="right")
    for title in COLUMNS.values():
        main.add_column(title, justify="right")
    for name, title in ROWS.items():
        row = test["table"][name]
        values = [
            f"{row[m]['value']:.4f} [dim]{row[m]['low']:.3f}-{row[m]['high']:.3f}[/]"
            for m in COLUMNS
        ]
        style = "bold" if name == "cascade" else ""
        main.add_row(title, f"{row['asked_share']:.1%}", *values, style=style)
    groups = Table(title="Who wins where (groups by CRM confidence)", title_justify="left")
    for title in ("group", "rows", "CRM AUC", "LLM AUC", "LLM - CRM (95 %)", "CRM log loss",
                  "LLM log loss"):  # fmt: skip
        groups.add_column(title, justify="right")
    for group in test["groups"]:
        gap = group["llm_over_crm"]["auc"]
        crm, llm = group["crm_calibrated"], group["llm_calibrated"]
        groups.add_row(
            str(group["group"]) + (" (least confident)" if group["group"] == 1 else ""),
            f"{group['rows']:,}",
            f"{crm['auc']:.4f}",
            f"{llm['auc']:.4f}",
            f"{gap['value']:+.4f} ({gap['low']:+.3f} to {gap['high']:+.3f})",
            f"{crm['log_loss']:.4f}",
            f"{llm['log_loss']:.4f}",
        )
    return Group(main, groups)


def test_rows(result: dict[str, Any]) -> str:
    """Which rows were measured, in words."""
    test = result["test"]
    if test["rows"] == test["split_rows"]:
        return f"All {test['rows']:,} test rows ({test['users']:,} users)"
    return f"{test['rows']:,} random of {test['split_rows']:,} test rows ({test['users']:,} users)"


def render(result: dict[str, Any]) -> str:
    """The report as one HTML page that needs no other file and no network."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = resources.files("corellarec.evaluation") / "page.html.j2"
    test = result["test"]
    return environment.from_string(template.read_text("utf-8")).render(
        result=result,
        test=test,
        test_rows=test_rows(result),
        rows=ROWS,
        columns=COLUMNS,
        curve=plots.curve_figure(test["curve"], result["router"]["budget"]),
        groups=plots.groups_figure(test["groups"]),
        reliability=plots.reliability_figure(test["reliability"]),
        training=plots.training_figure(result["stages"]) if result["stages"] else "",
        finding=finding(result),
    )


def finding(result: dict[str, Any]) -> list[str]:
    """What the run showed, in a few sentences that follow from the figures."""
    test = result["test"]
    table, first = test["table"], test["groups"][0]
    cascade = table["cascade"]
    sentences = []
    for metric, title, better in (("auc", "AUC", 1), ("log_loss", "log loss", -1)):
        gap = cascade[f"{metric}_over_crm"]
        if gap["low"] <= 0 <= gap["high"]:
            verdict = "no different from the CRM's beyond noise"
        else:
            verdict = (
                "better than the CRM's" if gap["value"] * better > 0 else "worse than the CRM's"
            )
        sentences.append(
            f"The cascade's {title} is {cascade[metric]['value']:.4f}, {verdict} "
            f"({gap['value']:+.4f}, 95 % interval {gap['low']:+.4f} to {gap['high']:+.4f})."
        )
    gap = first["llm_over_crm"]["auc"]
    if gap["low"] > 0:
        verdict = "the LLM is ahead, as the paper says"
    elif gap["high"] < 0:
        verdict = "the CRM is ahead, unlike in the paper"
    else:
        verdict = "neither is ahead beyond noise"
    sentences.append(
        f"In the group where the CRM is least confident, {verdict}: AUC "
        f"{first['llm_calibrated']['auc']:.4f} for the LLM, {first['crm_calibrated']['auc']:.4f} "
        f"for the CRM (difference {gap['value']:+.4f}, {gap['low']:+.4f} to {gap['high']:+.4f})."
    )
    whole = table["blend_all"]["auc_over_crm"]
    sentences.append(
        f"Asked about every row, the blend's AUC is {table['blend_all']['auc']['value']:.4f} "
        f"({whole['value']:+.4f} over the CRM, {whole['low']:+.4f} to {whole['high']:+.4f})."
    )
    return sentences
