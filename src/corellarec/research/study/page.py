"""The report of a study, from its ``study.json`` alone: one HTML file, and tables in Markdown.

The result holds ``name``, ``spec``, ``config``, ``data``, ``machine``, ``cells`` (what was run) and
what :class:`corellarec.research.study.measure.Measurement` found: ``rows``, ``users``, ``ours`` and
``reference`` (names in the ``table``), ``table``, ``beside``, ``no_harm``, ``segments``,
``routing`` and, where the study has one, ``ablation``.
"""

from importlib import resources
from typing import Any

import jinja2

from corellarec.research.study import plots
from corellarec.research.study.measure import EVERY_ROW, PAPER

Figure = dict[str, float]


def number(value: float | None, digits: int = 4) -> str:
    """A figure without its leading zero, as tables of the field have it; a dash where unknown."""
    if value is None or value != value:
        return "–"
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def signed(value: float, digits: int = 4) -> str:
    """A difference with its sign."""
    return ("+" if value >= 0 else "-") + number(abs(value), digits)


def between(figure: Figure, *, difference: bool = False) -> str:
    """The interval of a figure, or of a difference."""
    show = signed if difference else number
    return f"{show(figure['low'], 4)} to {show(figure['high'], 4)}"


def row_of(result: dict[str, Any], name: str) -> dict[str, Any] | None:
    """A row of the main table."""
    return next((row for row in result["table"] if row["name"] == name), None)


def findings(result: dict[str, Any]) -> list[str]:
    """What the study showed, in sentences that follow from its figures."""
    said = []
    ours, reference = row_of(result, result["ours"]), result["reference"]
    assert ours is not None
    for metric, title, better in (("auc", "AUC", 1), ("log_loss", "log loss", -1)):
        gap = ours[f"{metric}_over"]
        said.append(
            f"With {ours['asked']:.1%} of the rows answered by the LLM, the cascade's {title} is "
            f"{number(ours[metric]['value'])}, {_verdict(gap, better)} {reference}'s, the best "
            f"model without it by validation ({signed(gap['value'])}, 95 % interval "
            f"{between(gap, difference=True)})."
        )
    said += _who_wins(result)
    paper = row_of(result, PAPER)
    assert paper is not None
    said.append(
        f"The paper's own rule (entropy, replace) at {paper['asked']:.0%}: AUC "
        f"{number(paper['auc']['value'])}, {signed(paper['auc_over']['value'])} "
        f"({between(paper['auc_over'], difference=True)}) over {reference}."
    )
    said.append(_policies(result))
    said += _control(result)
    said.append(_best_beside(result["beside"]))
    said.append(_within_users(result))
    harmed = [one for one in result["no_harm"] if one["harm"]]
    said.append(
        "No harm: the log loss of no cascade here is above its own CRM's beyond the interval."
        if not harmed
        else "Harm: the log loss is above its own CRM's beyond the interval with "
        + ", ".join(one["name"] or result["ours"] for one in harmed)
        + "."
    )
    return said


def _verdict(gap: Figure, better: int) -> str:
    if gap["low"] <= 0 <= gap["high"]:
        return "no different beyond noise from"
    return "better than" if gap["value"] * better > 0 else "worse than"


def _who_wins(result: dict[str, Any]) -> list[str]:
    """The paper's Figure 1 in words."""
    segment = result["segments"][0]
    least = segment["groups"][0]
    if "predictors" not in least:
        return []
    said = []
    for name, figures in least["predictors"].items():
        if not name.startswith("LLM"):
            continue
        gap = figures["auc"]["over"]
        loss = figures["log_loss"]["over"]
        said.append(
            f"Where the CRM is least confident ({least['rows']:,} rows), the AUC of {name} is "
            f"{_verdict(gap, 1)} the CRM's ({signed(gap['value'])}, "
            f"{between(gap, difference=True)}), its log loss {_verdict(loss, -1)} the CRM's "
            f"({signed(loss['value'])}, {between(loss, difference=True)})."
        )
    return said


def _policies(result: dict[str, Any]) -> str:
    """Gain against entropy at the same budgets."""
    budgets = result["routing"]["at_budgets"]
    ahead = [
        row
        for row in budgets
        if row["auc"]["gain_over_entropy"]["value"] >= 0
        and row["log_loss"]["gain_over_entropy"]["value"] <= 0
    ]
    shown = "; ".join(
        f"{row['budget']:.0%}: AUC {signed(row['auc']['gain_over_entropy']['value'])} "
        f"({between(row['auc']['gain_over_entropy'], difference=True)})"
        for row in budgets
    )
    return (
        f"At the same budgets the gain policy is at least as good as entropy in AUC and log loss "
        f"at {len(ahead)} of {len(budgets)} ({shown})."
    )


def _control(result: dict[str, Any]) -> list[str]:
    """The LLM's gain on every row beside a second CRM's."""
    control = next(
        (r for r in result["table"] if r["kind"] == "control" and "every row" in r["name"]), None
    )
    whole = row_of(result, EVERY_ROW)
    own = next((row for row in result["table"] if row["kind"] == "crm"), None)
    if control is None or whole is None or own is None:
        return []
    by_llm = whole["auc"]["value"] - own["auc"]["value"]
    by_crm = control["auc"]["value"] - own["auc"]["value"]
    return [
        f"Asked about every row, the LLM adds {signed(by_llm)} AUC to {own['name']} "
        f"({number(own['auc']['value'])}); a second CRM in its place adds {signed(by_crm)} "
        f"({control['name'].removeprefix('control: ').partition(' in ')[0]})."
    ]


def _best_beside(rows: list[dict[str, Any]]) -> str:
    """What the LLM adds to the CRM that came out best on the test rows."""
    best = max(rows, key=lambda row: row["auc"]["crm"]["value"])
    auc, loss = best["auc"]["budget"], best["log_loss"]["budget"]
    return (
        f"Beside {best['name']}, the best CRM on the test rows, the LLM brings AUC from "
        f"{number(best['auc']['crm']['value'])} to {number(auc['value'])} when exactly 10% are "
        f"asked about ({signed(auc['over']['value'])}, {between(auc['over'], difference=True)}), "
        f"log loss from {number(best['log_loss']['crm']['value'])} to {number(loss['value'])} "
        f"({signed(loss['over']['value'])}, {between(loss['over'], difference=True)}); on every "
        f"row AUC to {number(best['auc']['every_row']['value'])}."
    )


def _within_users(result: dict[str, Any]) -> str:
    """Whether the models know items, or only who likes much."""
    kinds = ("yardstick", "llm")
    rows = [row for row in result["table"] if row["kind"] in kinds]
    crm = next(row for row in result["table"] if row["kind"] == "crm")
    whole = row_of(result, EVERY_ROW)
    assert whole is not None
    shown = ", ".join(
        f"{number(row['uauc']['value'])} for {row['name']}" for row in (crm, *rows, whole)
    )
    return f"Within single users (UAUC, one half is chance): {shown}."


def render(result: dict[str, Any]) -> str:
    """The report as one HTML page that needs no other file and no network."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.globals.update(number=number, signed=signed, between=between, findings=findings)
    template = resources.files("corellarec.research.study") / "page.html.j2"
    segments = result["segments"]
    return environment.from_string(template.read_text("utf-8")).render(
        result=result,
        confidence=plots.confidence_figure(segments[0]),
        others=plots.segments_figure(segments),
        curve=plots.routing_figure(result["routing"]),
    )


# The same tables as Markdown.


def to_markdown(result: dict[str, Any]) -> str:
    """What the study showed and its tables, for docs and terminals."""
    parts = [
        f"# {result['name']}",
        f"{result['rows']:,} test rows of {result['users']:,} users; seeds "
        f"{', '.join(map(str, result['spec']['seeds']))}; 95 % intervals, users resampled.",
        "\n".join(f"- {sentence}" for sentence in findings(result)),
        "## Models\n\n" + _main_table(result),
        "## Who wins where\n\n" + "\n\n".join(_segment(one) for one in result["segments"]),
        "## Whom to ask\n\n" + _budgets(result["routing"]),
        _thresholds(result["routing"]),
        "## The LLM beside every CRM\n\n" + _beside(result["beside"]),
    ]
    if "ablation" in result:
        parts.append("## What each part brings\n\n" + _ablation(result["ablation"]))
    return "\n\n".join(parts) + "\n"


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _main_table(result: dict[str, Any]) -> str:
    head = ["", "LLM calls", "AUC", "log loss", "ACC", "UAUC", f"AUC over {result['reference']}",
            "log loss over it", "ms / 1,000", "tokens / 1,000"]  # fmt: skip
    rows = []
    for row in result["table"]:
        name = row["name"] + ("" if row["rows"] == result["rows"] else f" ({row['rows']:,} rows)")
        metrics = [number(row[m]["value"]) for m in ("auc", "log_loss", "accuracy", "uauc")]
        gaps = [
            f"{signed(row[m]['value'])} ({between(row[m], difference=True)})"
            for m in ("auc_over", "log_loss_over")
        ]
        costs = ["–" if row[k] is None else f"{row[k]:,.0f}" for k in ("ms", "tokens")]
        rows.append([name, f"{row['asked']:.1%}", *metrics, *gaps, *costs])
    return _markdown(head, rows)


def _beside(rows: list[dict[str, Any]]) -> str:
    head = ["", "alone: AUC", "10 % asked: AUC", "over the CRM", "every row: AUC", "over the CRM",
            "alone: log loss", "10 % asked: log loss", "over the CRM"]  # fmt: skip
    lines = []
    for row in rows:
        cells = [row["name"], number(row["auc"]["crm"]["value"])]
        for metric, way in (("auc", "budget"), ("auc", "every_row"), ("log_loss", "budget")):
            one = row[metric][way]
            if metric == "log_loss":
                cells.append(number(row[metric]["crm"]["value"]))
            cells.append(number(one["value"]))
            gap = one["over"]
            cells.append(f"{signed(gap['value'])} ({between(gap, difference=True)})")
        lines.append(cells)
    return _markdown(head, lines)


def _segment(segment: dict[str, Any]) -> str:
    named = next((g["predictors"] for g in segment["groups"] if "predictors" in g), {})
    head = [segment["title"], "rows", "users"]
    head += [f"{name}: AUC" for name in named]
    head += [f"{name} over CRM" for name in list(named)[1:]]
    rows = []
    for group in segment["groups"]:
        row = [group["name"], f"{group['rows']:,}", f"{group['users']:,}"]
        if "predictors" in group:
            of = group["predictors"]
            row += [number(of[name]["auc"]["value"]) for name in named]
            row += [
                f"{signed(of[n]['auc']['over']['value'])} "
                f"({between(of[n]['auc']['over'], difference=True)})"
                for n in list(named)[1:]
            ]
        rows.append(row + ["–"] * (len(head) - len(row)))
    return _markdown(head, rows)


def _budgets(routing: dict[str, Any]) -> str:
    head = ["rows asked about", "entropy: AUC", "gain: AUC", "gain over entropy",
            "entropy: log loss", "gain: log loss", "gain over entropy"]  # fmt: skip
    rows = []
    for row in routing["at_budgets"]:
        cells = [f"{row['budget']:.0%}"]
        for metric in ("auc", "log_loss"):
            gap = row[metric]["gain_over_entropy"]
            cells += [number(row[metric]["entropy"]), number(row[metric]["gain"])]
            cells.append(f"{signed(gap['value'])} ({between(gap, difference=True)})")
        rows.append(cells)
    area = _markdown(
        ["area over random", "AUC", "log loss"],
        [
            [name, signed(of["area"]["auc"], 5), signed(of["area"]["log_loss"], 5)]
            for name, of in routing["policies"].items()
            if name != "random"
        ],
    )
    return _markdown(head, rows) + "\n\n" + area


def _thresholds(routing: dict[str, Any]) -> str:
    head = ["seed", "policy", "threshold", "share on validation", "bound", "above on test",
            "asked on test", "nats a routed test row gains"]  # fmt: skip
    rows = []
    for one in routing["thresholds"]:
        share = one["validation"]["routed"] / max(1, one["validation"]["rows"])
        bound = one["validation"]["bound"]
        cells = [str(one["seed"]), one["policy"], number(one["threshold"]), f"{share:.1%}"]
        cells += [f"{part:.1%}" for part in (bound, one["above"], one["asked"])]
        cells.append(signed(one["saved"]))
        rows.append(cells)
    return _markdown(head, rows)


def _ablation(variants: list[dict[str, Any]]) -> str:
    head = ["", "CRM: AUC", "LLM: AUC", "cascade: AUC", "over the full method", "LLM calls",
            "every row: AUC", "disagree", "near one half", "shift", "correlation"]  # fmt: skip
    rows = []
    for one in variants:
        gap, apart = one["cascade"]["auc"]["over"], one["boundary"]
        rows.append(
            [
                one["name"],
                *(number(one[way]["auc"]["value"]) for way in ("crm", "llm", "cascade")),
                f"{signed(gap['value'])} ({between(gap, difference=True)})",
                f"{one['asked']:.1%}",
                number(one["every_row"]["auc"]["value"]),
                f"{apart['disagree']:.1%}",
                f"{apart['disagree_near']:.1%}",
                signed(apart["shift"]),
                number(apart["correlation"], 2),
            ]
        )
    return _markdown(head, rows)
