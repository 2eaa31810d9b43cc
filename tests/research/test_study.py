"""A small study end to end, through the command line."""

from dataclasses import replace
from html.parser import HTMLParser

import pytest

from command_line import call, options, run
from corellarec.evaluation.page import render, to_markdown
from corellarec.evaluation.results import StudyResult
from corellarec.run import stages

SPEC = """
preset = "quick"
seeds = [0, 1]
crms = ["ml-100k/lr", "ml-100k/fm"]

[llms."on more rows".stage3]
rows = 400

[baselines.ctrl]
rows = 100

[baselines.tallrec]
rows = 20
evaluate.test_rows = 40

[distill]
rows = 150
weights = [0.5]

[ablation."without stage 2".stage2]
rows = 0

[ablation."without stage 3".stage3]
rows = 0
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_settings):
    folder = tmp_path_factory.mktemp("study")
    (folder / "small.toml").write_text(SPEC)
    arguments = ["study", folder / "small.toml", "--out", folder / "out", *options(tiny_settings),
                 "--set", "evaluate.test_rows=0"]  # fmt: skip
    out, _ = run(*arguments, "--json")
    return folder / "out", arguments, StudyResult.from_json(out)


def test_the_table_holds_every_model_and_its_parts(finished):
    directory, _, result = finished
    names = [row.name for row in result.table]
    assert [row.kind for row in result.table][:3] == ["yardstick", "yardstick", "crm"]
    assert names[2:5] == ["stream", "lr", "fm"]
    assert {
        "ctrl",
        "tallrec",
        "calibrated LLM",
        "deployed cascade (gain, blend)",
        "calibrated LLM, on more rows",
        "stream, taught by the LLM",
    } < set(names)
    assert len({row.key for row in result.table}) == len(names)
    reference = result.row(result.reference)
    assert reference.name in ("stream", "lr", "fm", "ctrl")
    assert reference.over_reference["auc"].value == 0
    assert result.row("baseline/tallrec").rows == 40
    assert result.row("crm_calibrated").seeds == 2
    for row in result.table:
        for metric in ("auc", "log_loss", "accuracy"):
            figure = row.metrics[metric]
            assert figure.low <= figure.high
            assert figure.smallest <= figure.value <= figure.largest
    assert (
        StudyResult.from_json((directory / "study.json").read_text()).to_json() == result.to_json()
    )


def test_segments_routing_and_ablation(finished):
    _, _, result = finished
    titles = [segment.title for segment in result.segments]
    assert titles[0].startswith("CRM confidence")
    assert "item popularity (training rows)" in titles
    confidence = result.segments[0].groups
    assert sum(group.rows for group in confidence) == result.rows
    assert list(confidence[0].predictors) == ["CRM", "LLM", "LLM, on more rows", "cascade"]
    policies = result.curves.policies
    assert set(policies) == {"gain", "entropy", "random", "oracle"}
    for curve in policies.values():
        assert len(curve.auc) == 21
        assert curve.auc[0] == pytest.approx(policies["gain"].auc[0])
        assert curve.auc[-1] == pytest.approx(policies["gain"].auc[-1])
    assert policies["oracle"].area["log_loss"] <= policies["gain"].area["log_loss"]
    assert [(row.seed, row.policy) for row in result.thresholds] == [
        (0, "entropy"), (0, "gain"), (1, "entropy"), (1, "gain"),
    ]  # fmt: skip
    names = [one.name for one in result.ablation]
    assert names == ["the full method", "without stage 2", "without stage 3"]
    assert result.ablation[0].predictors["cascade"].over_reference["auc"].value == 0
    assert result.row("blend_all").llm_share == 1.0
    assert len(result.no_harm) == 3
    assert not any(one.harm for one in result.no_harm)


def test_the_report_is_one_file_and_the_markdown_has_its_tables(finished):
    directory, _, result = finished
    needs = []

    class Links(HTMLParser):
        def handle_starttag(self, tag, attrs):
            needs.extend(v for k, v in attrs if k in ("src", "href") and not v.startswith("#"))

    text = (directory / "report.html").read_text()
    Links().feed(text)
    assert needs == []
    assert text == render(result)
    markdown = (directory / "study.md").read_text()
    assert markdown == to_markdown(result)
    for row in result.table:
        assert f"| {row.name}" in markdown
    assert "What each part brings" in text
    assert "What each part brings" in markdown
    without = replace(result, ablation=())
    assert "What each part brings" not in render(without) + to_markdown(without)


def test_again_nothing_is_trained(finished, monkeypatch, capsys):
    directory, arguments, result = finished

    def train(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(stages, "train", train)
    code, out, err = call(monkeypatch, capsys, *arguments)
    assert code == 0, err
    assert "calibrated LLM" in out
    again = StudyResult.from_json((directory / "study.json").read_text())
    # Milliseconds of a CRM are measured again.
    assert [row.metrics for row in again.table] == [row.metrics for row in result.table]
    code, out, _ = call(monkeypatch, capsys, *arguments, "--dry-run")
    assert code == 0
    assert out.count("done in") == len(result.cells)
    assert "to do" not in out


def test_a_study_that_is_not_there_is_one_line(monkeypatch, capsys):
    code, _, err = call(monkeypatch, capsys, "study", "nothing")
    assert code == 2
    assert "no study named 'nothing'" in err
