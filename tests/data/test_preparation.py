import json
import shutil

import pytest

from corellarec.base.artifacts import write_sealed
from corellarec.base.errors import ArtifactError
from corellarec.config import load_config
from corellarec.data.log import Log
from corellarec.data.preparation import read_preparation
from corellarec.data.prepare import prepare
from data.test_tables import describe, write_log
from small import write_movielens


def test_the_facts_are_read_back_equal(movielens, tmp_path):
    facts = prepare(load_config(settings=[f"data.path={movielens}"]).data, tmp_path / "d")
    assert read_preparation(tmp_path / "d") == facts
    assert list(facts.splits) == ["train", "validation", "test"]
    assert facts.splits["train"].last < facts.splits["validation"].first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda facts: facts.pop("features"), r"\(features: .*required\): delete"),
        (lambda facts: facts.update(rows="many"), r"\(rows: .*integer\): delete"),
        (lambda facts: facts["splits"]["test"].pop("first"), r"\(splits\.test\.first: "),
    ],
)
def test_the_log_of_another_version_is_refused_and_made_anew(prepared, tmp_path, change, message):
    folder = tmp_path / "d"
    shutil.copytree(prepared, folder)
    facts = json.loads((folder / "manifest.json").read_text())
    change(facts)
    del facts["sha256"]
    write_sealed(folder / "manifest.json", json.dumps(facts, indent=1))
    with pytest.raises(ArtifactError, match=r"another version of corellarec " + message):
        Log.load(folder)
    config = load_config(settings=[f"data.path={facts['settings']['path']}"]).data
    assert not prepare(config, folder).up_to_date
    assert Log.load(folder).history == "all"


def test_the_summary_says_what_there_is_and_what_is_missing(tmp_path):
    folder = write_movielens(tmp_path / "m")
    rows = (folder / "u.data").read_text().splitlines()
    (folder / "u.data").write_text("\n".join([*rows, rows[0], "1\t1"]) + "\n")
    settings = [f"data.path={folder}", "data.skip_bad_rows=1", "data.min_history=2"]
    facts = prepare(load_config(settings=settings).data, tmp_path / "d")
    first = "the first: u.data, line 1602: 2 values where 4 are expected (user<tab>"
    assert facts.left_out_text.startswith(f"1 bad rows, 1 duplicate rows ({first}")
    lines = dict(line.split(maxsplit=1) for line in facts.summary().splitlines())
    assert lines["rows"] == "1,520"
    assert lines["history"] == "only  80 rows"
    assert lines["left"].endswith(facts.left_out_text)
    assert lines["train"].startswith("1,216 rows; ")
    assert "1997-11-20T" in facts.summary()
    assert all(len(line) <= 80 for line in facts.summary().splitlines() if "left out" not in line)
    assert "MiB of memory" in lines["cost"]
    again = prepare(load_config(settings=settings).data, tmp_path / "d")
    assert "already prepared" in again.summary()


def test_nothing_left_out(tmp_path):
    write_log(tmp_path)
    facts = prepare(describe(tmp_path), tmp_path / "d")
    assert facts.left_out_text == ""
    assert "left out      nothing" in facts.summary()
