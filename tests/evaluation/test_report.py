"""The page, the Markdown and the tables of a terminal."""

import io
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from rich.console import Console

from corellarec.cascade.router import Verdict
from corellarec.config import Config
from corellarec.evaluation.evaluate import evaluate_scores
from corellarec.evaluation.findings import findings
from corellarec.evaluation.grids import grouped, main_grid
from corellarec.evaluation.look import colours, sheet
from corellarec.evaluation.page import render, to_markdown
from corellarec.evaluation.parts import DataFacts, Split
from corellarec.evaluation.plots import confidence_figure, curves_figure, reliability_figure
from corellarec.evaluation.terminal import tables
from corellarec.evaluation.text import interval, number, percent, signed, signed_interval


@pytest.fixture(scope="module")
def result(make_scores, make_router):
    return evaluate_scores(
        make_scores(), make_router(), bootstrap=20, groups=3, seed=0, name="runs/x"
    )


@pytest.fixture(scope="module")
def of_one_user(make_scores, make_router):
    return evaluate_scores(make_scores(users=1), make_router(), bootstrap=20, groups=3, seed=0)


def printed(result, width):
    text = io.StringIO()
    Console(width=width, file=text, color_system=None).print(tables(result))
    return text.getvalue()


@pytest.mark.parametrize("width", [80, 150])
def test_a_terminal_shows_every_figure_whole(result, width):
    text = printed(result, width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for row in result.table:
        for metric in ("auc", "log_loss", "accuracy", "calibration_error"):
            figure = row.metrics[metric]
            assert f"{number(figure.value)}  {interval(figure, 3)}" in text, (row.key, metric)
        assert any(
            line.startswith(row.name) and percent(row.llm_share) in line
            for line in text.splitlines()
        )
    for group in result.segments[0].groups:
        gap = group.predictors["LLM"].over_reference["auc"]
        assert signed(gap.value) in text
        assert signed_interval(gap, 3) in text


def test_a_terminal_folds_a_long_name_and_no_figure(result):
    row = replace(result.table[0], name="a predictor whose name is longer than half the width")
    text = printed(replace(result, table=(row,)), 80)
    assert max(map(len, text.splitlines())) <= 80
    assert (
        f"{number(row.metrics['log_loss'].value)}  {interval(row.metrics['log_loss'], 3)}" in text
    )
    assert "…" not in text


def test_of_one_user_intervals_are_dashes(of_one_user):
    text = printed(of_one_user, 80)
    assert "nan" not in text
    assert f"{number(of_one_user.table[0].metrics['auc'].value)}  " in text
    for whole in (render(of_one_user), to_markdown(of_one_user)):
        assert "nan" not in whole.lower()
        assert "a dash where fewer than two users" in whole
    assert any("no interval from fewer than two users" in said for said in findings(of_one_user))


def test_the_page_has_a_section_for_what_was_measured_and_no_other(result):
    page = render(result)
    assert "<h1>Who should answer?</h1>" in page
    for title in ("What was found", "Quality on the test rows", "Quality against budget",
                  "Are the probabilities calibrated?"):  # fmt: skip
        assert f"<h2>{title}</h2>" in page
    for title in ("Training", "Data", "Settings", "What each part brings", "What was run"):
        assert f"<h2>{title}</h2>" not in page
    assert page.count("<svg") == 5
    for row in result.table:
        assert f"<td>{number(row.metrics['auc'].value)} <small>" in page


class Rows(HTMLParser):
    """The texts of a page's elements of one kind, and all attributes."""

    def __init__(self, page, wanted):
        super().__init__()
        self.texts, self.attributes, self._wanted, self._inside = [], [], wanted, False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.attributes.append((tag, dict(attributes)))
        if tag == self._wanted:
            self.texts.append("")
            self._inside = True

    def handle_endtag(self, tag):
        self._inside = self._inside and tag != self._wanted

    def handle_data(self, data):
        if self._inside:
            self.texts[-1] += data


def test_what_predicts_is_the_first_row(result):
    first = main_grid(result).lines[0]
    assert (first.kind, first.cells[0].text, first.is_main) == (
        "what predicts", "deployed cascade", True,
    )  # fmt: skip
    assert printed(result, 80).splitlines()[3].startswith("deployed cascade")
    assert Rows(render(result), "b").texts[0] == number(result.row("cascade").metrics["auc"].value)


def test_a_variants_rows_are_together(result):
    def as_variant(key, name):
        return replace(result.row(key), key=f"{key}/{name}", name=f"{key}, {name}")

    table = [
        *result.table[:4],
        replace(result.row("crm"), key="crm/lr", name="lr"),
        *(as_variant("llm_calibrated", name) for name in ("more", "less")),
        *result.table[4:],
        *(as_variant(key, name) for key in ("blend_all", "cascade") for name in ("more", "less")),
    ]
    found = [(heading, row.key) for heading, row in grouped(table)]
    assert found[0] == ("what predicts", "cascade")
    assert found[-6:] == [
        ("variant: more", "cascade/more"),
        ("variant: more", "llm_calibrated/more"),
        ("variant: more", "blend_all/more"),
        ("variant: less", "cascade/less"),
        ("variant: less", "llm_calibrated/less"),
        ("variant: less", "blend_all/less"),
    ]
    assert ("CRMs alone", "crm/lr") in found
    assert sorted(key for _, key in found) == sorted(row.key for row in table)


def test_tables_scroll_and_settings_are_folded(result):
    settings = Config().model_dump(mode="json")
    found = Rows(render(replace(result, settings=settings)), "pre")
    scrolling = [of for _, of in found.attributes if of.get("class") == "scroll"]
    assert scrolling
    for of in scrolling:
        assert (of["tabindex"], of["role"]) == ("0", "region")
        assert of["aria-label"]
    tags = [tag for tag, _ in found.attributes]
    assert tags[tags.index("pre") - 2 : tags.index("pre")] == ["details", "summary"]
    assert json.loads(found.texts[0]) == settings


def test_figures_have_no_colour_but_those_of_the_pages(result):
    figures = [curves_figure(result.curves, result.budgets), confidence_figure(result.segments[0]),
               reliability_figure(result.reliability)]  # fmt: skip
    for figure in figures:
        drawn = figure.replace(sheet("colours"), "")
        assert len(drawn) < len(figure)
        assert re.findall("#[0-9a-f]{6}", drawn) == []
        assert set(re.findall(r"var\(--(\w+)\)", drawn)) <= set(colours())
        assert "var(--crm)" in drawn


def test_dark_pages_have_every_colour():
    light, dark = sheet("colours").split("@media (prefers-color-scheme: dark)")
    assert re.findall(r"(--\w+):", light) == re.findall(r"(--\w+):", dark)
    assert len(set(colours().values())) == len(colours())


def test_the_lead_names_the_configured_models_and_the_data(result):
    settings = Config.model_validate({"crm": {"model": "fibinet"}}).model_dump(mode="json")
    split = Split(1500, 700, 0, 0, "2019-01-02T00:00:00Z", "2020-03-04T00:00:00Z")
    data = DataFacts("my <log>", 9000, 60, 50, 4000, {"test": split})
    page = render(replace(result, settings=settings, data=data))
    assert "fibinet as the CRM" in page
    assert (
        "<h1>Who should answer? <span>my &lt;log&gt; from 2019-01-02 to 2020-03-04</span>" in page
    )
    assert "my <log> from 2019-01-02 to 2020-03-04" in to_markdown(replace(result, data=data))
    assert "DCNv2" not in page
    assert "run runs/x, seed 0" in page


def test_the_configured_budget_and_the_cut_oracle_are_in_the_legend(result):
    figure = curves_figure(result.curves)
    assert "configured budget, 10 %" in figure
    best = result.curves.policies["oracle"]
    assert f"oracle up to {max(best.auc):.4f}, at " in figure
    assert f"oracle down to {min(best.log_loss):.4f}, at " in figure
    one = curves_figure(result.curves, metric="auc")
    assert "oracle down to" not in one


def test_the_gain_over_the_crm_has_a_band(result, of_one_user):
    plain = curves_figure(result.curves)
    assert curves_figure(result.curves, result.budgets) != plain
    without = curves_figure(of_one_user.curves)  # of one user no interval is known
    assert curves_figure(of_one_user.curves, of_one_user.budgets) == without


def test_a_router_that_routes_nothing_is_said_so(make_scores, make_router):
    no_gain = Verdict(helps=False, routed=90, gain=0.0, bound=-0.01)
    router = make_router(verdict=no_gain)
    result = evaluate_scores(make_scores(), router, bootstrap=20, groups=3, seed=0)
    said = findings(result)[0]
    assert said.startswith(
        "The router sends no rows to the LLM: validation shows no significant gain."
    )
    page = render(result)
    assert "the cascade is the CRM" in page
    assert "routes no rows: its CRM answers" in page
    cells = main_grid(result).lines[0].cells
    assert [cell.text for cell in cells[-2:]] == ["the same", "the same"]
    assert "its lower bound at 95 % confidence, -0.01000, is not above 0.0001" in page
    assert "saves" not in result.router.explanation


def test_the_page_needs_no_other_file(result):
    needs = []

    class Links(HTMLParser):
        def handle_starttag(self, tag, attrs):
            needs.extend(v for k, v in attrs if k in ("src", "href") and not v.startswith("#"))

    Links().feed(render(result))
    assert needs == []


def test_a_threshold_that_no_row_reaches_is_a_dash(make_scores, make_router):
    largest = sys.float_info.max
    router = make_router(thresholds=(largest, -largest))
    result = evaluate_scores(make_scores(), router, bootstrap=2, groups=3, seed=0)
    assert "e+308" not in render(result)
    assert "| gain, 0 | – |" in to_markdown(result)
    assert "| entropy, 0 | – |" in to_markdown(result)


def test_markdown_has_the_tables(result):
    text = to_markdown(result)
    for row in result.table:
        assert (
            f"| {row.name} | {percent(row.llm_share)} | {number(row.metrics['auc'].value)} ("
            in text
        )
