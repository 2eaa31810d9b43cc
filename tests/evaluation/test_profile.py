"""The profile of a log: its figures against the raw tables, its page and its summary."""

import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest
from rich.console import Console
from typer.testing import CliRunner

from corellarec.cli.main import app
from corellarec.config import load_config
from corellarec.data.prepare import build
from corellarec.evaluation.profile import measure
from corellarec.evaluation.profile.measure import profile
from corellarec.evaluation.profile.page import render, tables
from data.test_tables import describe, write_log


@pytest.fixture(scope="module")
def settings(movielens, tiny_llm):
    return load_config(
        preset="quick",
        settings=[f"data.path={movielens}", f"llm.model={tiny_llm}", "llm.dtype=float32"],
    )


@pytest.fixture(scope="module")
def prepared(settings):
    return build(settings.data)


@pytest.fixture(scope="module")
def found(prepared, settings):
    return profile(prepared, settings, "films", tokens_per_second=100.0)


def test_counts_are_those_of_the_rows(found, prepared):
    rows = prepared.rows
    assert found.rows == sum(one.rows for one in found.periods) == rows.height
    assert found.positives == sum(one.positives for one in found.periods) == rows["label"].sum()
    assert sum(one.rows for one in found.ratings) == rows.height
    # A rating is positive or not, by the threshold of four.
    assert [one.rate for one in found.ratings if one.rows] == [
        float(float(one.name) >= 4) for one in found.ratings if one.rows
    ]
    assert sum(users for _, users, _ in found.histories) == found.users
    later = sum(one.rows for one in found.splits[1:])
    assert sum(count for *_, count in found.histories) == later
    for title, groups in found.segments.items():
        if "validation and test" in title:
            assert sum(one.rows for one in groups) == later
    assert sum(one.rows for one in found.segments["item's rows in the log"]) == rows.height
    cold = prepared.users["train_rows"].gather(rows["user"]) == 0
    test = rows["split"] == 2
    assert found.splits[2].cold_users == pytest.approx((cold & test).sum() / test.sum())


def test_popularity_and_its_gini_coefficient(found, prepared):
    for one, side in ((found.of_items, "item"), (found.of_users, "user")):
        counts = np.bincount(prepared.rows[side].to_numpy())
        apart = np.abs(counts[:, None] - counts[None]).mean()
        assert one.gini == pytest.approx(apart / 2 / counts.mean())
        assert (one.largest, one.median) == (counts.max(), np.median(counts))
        assert (one.share[0], one.rows[0], one.share[-1], one.rows[-1]) == (0, 0, 1, 1)
        assert list(one.rows) == sorted(one.rows)
    assert measure._popularity(np.full(40, 7)).gini == pytest.approx(0)


def test_features_are_described(tmp_path, settings):
    write_log(tmp_path)
    config = settings.model_copy(update={"data": describe(tmp_path)})
    features = {one.name: one for one in profile(build(config.data), config, "x").features}
    assert features.keys() == {"maker", "tags", "price"}
    assert (features["maker"].kind, features["maker"].distinct) == ("category", 4)
    assert features["maker"].top.startswith("m0 28 %")
    assert features["tags"].kind == "list"
    assert features["tags"].missing == pytest.approx(5 / 25)  # every fifth has none
    assert features["price"].top == "0 to 24, median 12.5"
    assert features["price"].missing == pytest.approx(1 / 25)


def test_drawn_negatives_are_not_profiled(tmp_path, settings):
    log = write_log(tmp_path)
    config = settings.model_copy(update={"data": describe(tmp_path, 'label = "implicit"')})
    prepared = build(config.data)
    assert prepared.rows.height > log.height
    found = profile(prepared, config, "x")
    assert found.rows == found.positives == sum(one.rows for one in found.splits)
    assert found.rows <= log.height


def test_tokens_are_those_of_the_stream(found, settings, prepared):
    text = found.text
    assert sum(n for _, n in text.title_tokens) == prepared.items["title"].drop_nulls().len()
    # Reading single prompts would cost the whole history for every row.
    assert all(1 < per_row < 60 for per_row in text.tokens_per_row.values())
    page = render(found)
    tokens = text.tokens_per_row["test"] * found.splits[2].rows
    assert f"{tokens:,.0f}" in page
    assert "100 tokens/s" in page


def test_a_sample_of_users_reads_about_as_many_tokens(found, settings, prepared, monkeypatch):
    monkeypatch.setattr(measure, "SAMPLE_ROWS", 60)
    few = profile(prepared, settings, "films").text.tokens_per_row["train"]
    assert few == pytest.approx(found.text.tokens_per_row["train"], rel=0.4)


def test_without_the_model_the_rest_is_there(prepared, settings):
    llm = settings.llm.model_copy(update={"model": "/nowhere/model"})
    found = profile(prepared, settings.model_copy(update={"llm": llm}), "films")
    assert found.text is None
    assert "/nowhere/model" in found.no_text
    assert "Not counted:" in render(found)


class Whole(HTMLParser):
    """Fails on what needs the network, and on tags that are not closed."""

    VOID = ("meta", "br", "link")

    def __init__(self):
        super().__init__()
        self.open, self.pictures = [], 0

    def handle_starttag(self, tag, attrs):
        self.pictures += tag == "svg"
        assert tag not in ("script", "img", "link")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("days", [3, 400, 4000])
def test_the_page_is_whole_at_any_span(tmp_path, days, settings):
    log = write_log(tmp_path)
    spread = log.with_columns(when=1_500_000_000 + pl.int_range(500) * days * 173)
    spread.with_columns(label=(pl.col("stars") > 3).cast(pl.Int8)).write_csv(tmp_path / "log.csv")
    config = settings.model_copy(update={"data": describe(tmp_path, 'label = "label"')})
    found = profile(build(config.data), config, "<shop & sons>")
    assert found.unit == {3: "day", 400: "week", 4000: "month"}[days]
    assert not found.ratings
    page = Whole()
    page.feed(text := render(found))
    assert not page.open
    assert page.pictures == 7  # all but that of the ratings
    assert "&lt;shop &amp; sons&gt;" in text
    assert not re.search(r"(src|href)=.?http|url\(http|@import", text)


def test_the_summary_fits_a_terminal(found):
    text = io.StringIO()
    Console(width=80, file=text, color_system=None).print(tables(found))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in text.getvalue()
    assert any(line.split()[:2] == ["test", f"{found.splits[2].rows:,}"] for line in lines)


def test_the_command_writes_a_page(tmp_path, movielens, tiny_llm):
    command = ["data", "profile", "--set", f"data.path={movielens}", "--set",
               f"llm.model={tiny_llm}", "-o", str(tmp_path / "p.html")]  # fmt: skip
    done = CliRunner().invoke(app, command, env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    assert "cold users" in done.stdout
    assert "written:" in done.stderr
    assert (tmp_path / "p.html").read_text().startswith("<!doctype html>")
    done = CliRunner().invoke(app, [*command, "--json"])
    assert json.loads(done.stdout)["splits"][2]["name"] == "test"
