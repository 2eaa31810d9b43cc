"""A small study end to end, through the command line."""

import json
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from command_line import call, options
from corellarec.research.study.page import render, to_markdown
from corellarec.run import run as steps

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
    done = subprocess.run(
        [sys.executable, "-m", "corellarec", *map(str, arguments), "--json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "out", arguments, json.loads(done.stdout)


def test_the_table_holds_every_model_and_its_parts(finished):
    directory, _, result = finished
    names = [row["name"] for row in result["table"]]
    assert [row["kind"] for row in result["table"]][:3] == ["yardstick", "yardstick", "crm"]
    assert names[2:5] == ["dcnv2", "lr", "fm"]
    assert {
        "ctrl",
        "tallrec",
        "LLM alone",
        "CoReLLa, gain, blend",
        "LLM alone, on more rows",
        "dcnv2, taught by the LLM",
    } < set(names)
    assert result["reference"] in ("dcnv2", "lr", "fm", "ctrl")
    rows = {row["name"]: row for row in result["table"]}
    assert rows["tallrec"]["rows"] == 40
    assert rows[result["reference"]]["auc_over"]["value"] == 0
    assert rows["dcnv2"]["seeds"] == 2
    for row in result["table"]:
        for metric in ("auc", "log_loss", "accuracy"):
            figure = row[metric]
            assert figure["low"] <= figure["high"]
            assert figure["least"] <= figure["value"] <= figure["most"]
    assert json.loads((directory / "study.json").read_text()) == result


def test_segments_routing_and_ablation(finished):
    _, _, result = finished
    titles = [segment["title"] for segment in result["segments"]]
    assert titles[0].startswith("CRM confidence")
    confidence = result["segments"][0]["groups"]
    assert sum(group["rows"] for group in confidence) == result["rows"]
    policies = result["routing"]["policies"]
    table = {row["name"]: row for row in result["table"]}
    for policy in ("gain", "entropy", "random", "oracle"):
        curve = policies[policy]["auc"]
        assert len(curve) == 21
        assert curve[0] == pytest.approx(policies["gain"]["auc"][0])
        assert curve[-1] == pytest.approx(policies["gain"]["auc"][-1])
    assert policies["oracle"]["area"]["log_loss"] <= policies["gain"]["area"]["log_loss"]
    assert len(result["routing"]["thresholds"]) == 4  # two seeds, two policies
    names = [one["name"] for one in result["ablation"]]
    assert names == ["the full method", "without stage 2", "without stage 3"]
    assert result["ablation"][0]["cascade"]["auc"]["over"]["value"] == 0
    whole = "CRM and LLM blended on every row"
    assert table[whole]["asked"] == 1.0
    assert not any(one["harm"] for one in result["no_harm"])


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
    for row in result["table"]:
        assert f"| {row['name']}" in markdown
    without = {name: part for name, part in result.items() if name != "ablation"}
    assert "What each part brings" not in render(without) + to_markdown(without)


def test_again_nothing_is_trained(finished, monkeypatch, capsys):
    directory, arguments, result = finished

    def train(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(steps, "train", train)
    code, out, err = call(monkeypatch, capsys, *arguments)
    assert code == 0, err
    assert "| CoReLLa, gain, blend |" in out
    again = json.loads((directory / "study.json").read_text())
    assert again["table"][0]["auc"] == result["table"][0]["auc"]
    code, out, _ = call(monkeypatch, capsys, *arguments, "--dry-run")
    assert code == 0
    assert out.count("done in") == len(result["cells"])
    assert "to do" not in out


def test_a_study_that_is_not_there_is_one_line(monkeypatch, capsys):
    code, _, err = call(monkeypatch, capsys, "study", "nothing")
    assert code == 2
    assert "no study named 'nothing'" in err
