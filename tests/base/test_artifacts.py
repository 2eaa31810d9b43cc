import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from corellarec.base.artifacts import read_json, read_manifest, write_json, write_text, writing
from corellarec.base.errors import ArtifactError


def test_directory_appears_whole_with_its_facts(tmp_path):
    with writing(tmp_path / "a", {"rows": 3}) as unfinished:
        (unfinished / "x").write_text("one")
        assert not (tmp_path / "a").exists()
    assert read_manifest(tmp_path / "a")["rows"] == 3
    with writing(tmp_path / "a") as unfinished:
        (unfinished / "x").write_text("two")
    assert (tmp_path / "a" / "x").read_text() == "two"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_failure_leaves_the_old_directory(tmp_path):
    with writing(tmp_path / "a") as unfinished:
        (unfinished / "x").write_text("one")

    def stopped_halfway():
        with writing(tmp_path / "a") as unfinished:
            (unfinished / "x").write_text("two")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stopped_halfway()
    read_manifest(tmp_path / "a")
    assert (tmp_path / "a" / "x").read_text() == "one"


def test_damage_is_named(tmp_path):
    with writing(tmp_path / "a") as unfinished:
        (unfinished / "x").write_bytes(b"abc")
    (tmp_path / "a" / "x").write_bytes(b"abd")
    with pytest.raises(ArtifactError, match=r"a/x has changed"):
        read_manifest(tmp_path / "a")
    (tmp_path / "a" / "x").unlink()
    with pytest.raises(ArtifactError, match=r"a/x is missing"):
        read_manifest(tmp_path / "a")
    (tmp_path / "a" / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match="damaged"):
        read_manifest(tmp_path / "a")
    with pytest.raises(ArtifactError, match="is not there"):
        read_manifest(tmp_path / "b")


def test_write_text_replaces(tmp_path):
    write_text(tmp_path / "d" / "t", "1")
    write_text(tmp_path / "d" / "t", "2")
    assert (tmp_path / "d" / "t").read_text() == "2"
    assert len(list((tmp_path / "d").iterdir())) == 1


@dataclass(frozen=True)
class Part:
    mean: float
    names: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    rows: int
    parts: dict[str, Part]
    at: datetime


def facts(mean=0.25):
    return Facts(3, {"train": Part(mean, ("a", "b"))}, datetime(2024, 5, 1, 12, tzinfo=UTC))


@pytest.mark.parametrize("mean", [0.1 + 0.2, math.inf, -math.inf])
def test_dataclasses_are_read_back_equal(tmp_path, mean):
    write_json(tmp_path / "x.json", facts(mean))
    assert read_json(tmp_path / "x.json", Facts) == facts(mean)


def test_nan_survives(tmp_path):
    write_json(tmp_path / "x.json", facts(math.nan))
    assert math.isnan(read_json(tmp_path / "x.json", Facts).parts["train"].mean)


def test_a_manifest_takes_a_dataclass(tmp_path):
    with writing(tmp_path / "a", facts()):
        pass
    assert read_json(tmp_path / "a" / "manifest.json", Facts) == facts()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": "3"}, r"another version of corellarec \(rows: .*integer"),
        ({"rows": None}, r"another version of corellarec \(rows: "),
        ({"parts": {"train": {"mean": 1}}}, r"another version .*\(parts\.train\.names: .*required"),
    ],
)
def test_other_types_are_another_versions(tmp_path, change, message):
    path = tmp_path / "x.json"
    write_json(path, facts())
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ArtifactError, match=message) as failure:
        read_json(path, Facts, remedy="run `corellarec evaluate` again")
    assert str(failure.value).startswith(str(path))
    assert str(failure.value).endswith(": run `corellarec evaluate` again")
    assert "\n" not in str(failure.value)


def test_a_file_that_is_absent_or_no_json_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"x\.json is not there: delete it and run the command"):
        read_json(tmp_path / "x.json", Facts)
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"x\.json is damaged"):
        read_json(tmp_path / "x.json", Facts)
