"""The page, the Markdown and the tables of a terminal."""

import io
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from rich.console import Console

from corellarec.cascade.router import Verdict
from corellarec.config import Config
from corellarec.evaluation.evaluate import evaluate_scores
from corellarec.evaluation.findings import findings
from corellarec.evaluation.page import render, to_markdown
from corellarec.evaluation.parts import DataFacts, Split
from corellarec.evaluation.plots import curves_figure
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
    for title in ("What was found", "Quality on the test rows", "Quality against budget",
                  "Are the probabilities calibrated?"):  # fmt: skip
        assert f"<h2>{title}</h2>" in page
    for title in ("Training", "Data", "Settings", "What each part brings", "What was run"):
        assert f"<h2>{title}</h2>" not in page
    assert page.count("<svg") == 3
    for row in result.table:
        assert f"<td>{number(row.metrics['auc'].value)} <small>" in page


def test_the_lead_names_the_configured_models_and_the_data(result):
    settings = Config.model_validate({"crm": {"model": "fibinet"}}).model_dump(mode="json")
    split = Split(1500, 700, 0, 0, "2019-01-02T00:00:00Z", "2020-03-04T00:00:00Z")
    data = DataFacts("my <log>", 9000, 60, 50, 4000, {"test": split})
    page = render(replace(result, settings=settings, data=data))
    assert "fibinet as the CRM" in page
    assert "my &lt;log&gt; from 2019-01-02 to 2020-03-04" in page
    assert "DCNv2" not in page
    assert "run runs/x, seed 0" in page


def test_the_configured_budget_and_the_cut_oracle_are_in_the_legend(result):
    figure = curves_figure(result.curves)
    assert "configured budget, 10 %" in figure
    assert "oracle, which knows the labels (leaves the picture)" in figure


def test_a_router_that_routes_nothing_is_said_so(make_scores, make_router):
    no_gain = Verdict(helps=False, routed=90, gain=0.0, bound=-0.01)
    router = make_router(verdict=no_gain)
    result = evaluate_scores(make_scores(), router, bootstrap=20, groups=3, seed=0)
    said = findings(result)[0]
    assert said.startswith(
        "The router sends no rows to the LLM: validation shows no significant gain."
    )


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
