import hashlib
import json
import math
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corellarec.base.artifacts import (
    read_json,
    read_manifest,
    read_sealed,
    whole,
    write_json,
    write_sealed,
    write_text,
    writing,
)
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
    with pytest.raises(ArtifactError, match=r"x\.json is not there: delete it; `corellarec run"):
        read_json(tmp_path / "x.json", Facts)
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"x\.json is damaged"):
        read_json(tmp_path / "x.json", Facts)


TEXTS = {"x.json": '{\n "a": [1, 2.5],\n "b": "\\u00e9"\n}\n', "x.toml": 'a = 1\n\n[b]\nc = "é"\n'}


@pytest.mark.parametrize("name", TEXTS)
def test_sealed_text_stays_what_it_is(tmp_path, name):
    write_sealed(tmp_path / name, TEXTS[name])
    text = read_sealed(tmp_path / name, "write it again")
    if name == "x.json":
        assert json.loads(text) == json.loads(TEXTS[name]) | {"sha256": json.loads(text)["sha256"]}
    else:
        assert tomllib.loads(text) == tomllib.loads(TEXTS[name])


@given(st.sampled_from(sorted(TEXTS)), st.integers(0), st.integers(0, 7))
def test_every_flipped_bit_of_a_sealed_text_is_noticed(tmp_path_factory, name, place, bit):
    path = tmp_path_factory.mktemp("sealed") / name
    write_sealed(path, TEXTS[name])
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="write it again"):
        read_sealed(path, "write it again")


def test_a_text_cut_short_or_without_checksum_is_noticed(tmp_path):
    path = tmp_path / "x.toml"
    write_sealed(path, TEXTS["x.toml"])
    path.write_text(path.read_text()[:-5])
    with pytest.raises(ArtifactError, match="has changed since it was written: do"):
        read_sealed(path, "do")
    path.write_text(TEXTS["x.toml"])
    with pytest.raises(ArtifactError, match="an older version of corellarec wrote it: do"):
        read_sealed(path, "do")
    with pytest.raises(ArtifactError, match="is not there: do"):
        read_sealed(tmp_path / "y", "do")


def manifest(directory, files):
    write_sealed(directory / "manifest.json", json.dumps({"files": files}, indent=1) + "\n")


def test_a_manifest_names_files_inside_its_directory(tmp_path):
    (tmp_path / "a").mkdir()
    secret = tmp_path / "secret"
    secret.write_text("s")
    digest = hashlib.sha256(b"s").hexdigest()
    for name in (str(secret), "../secret", "x/../../secret", "a\0b"):
        manifest(tmp_path / "a", {name: digest})
        with pytest.raises(ArtifactError, match="outside"):
            read_manifest(tmp_path / "a")
    (tmp_path / "a" / "link").symlink_to(secret)
    manifest(tmp_path / "a", {"link": digest})
    with pytest.raises(ArtifactError, match="a link that leads outside"):
        read_manifest(tmp_path / "a")


@pytest.mark.parametrize("files", [{}, [], {"x": 5}, None, 3])
def test_a_manifest_lists_files_and_their_checksums(tmp_path, files):
    manifest(tmp_path, files)
    with pytest.raises(ArtifactError, match=r"manifest\.json (lists no files|is damaged): delete"):
        read_manifest(tmp_path)


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path, victim = tmp_path / "x", tmp_path / "victim"
    write_text(path, "old")
    victim.write_text("precious")
    (tmp_path / ".x.unfinished").symlink_to(victim)

    def stopped_halfway():
        with whole(path) as unfinished:
            unfinished.write_text("ne")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        stopped_halfway()
    assert path.read_text() == "old"
    assert victim.read_text() == "precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["victim", "x"]


def test_what_is_missing_names_the_command_that_writes_it(tmp_path):
    with pytest.raises(ArtifactError, match="`corellarec run --resume --out RUN` writes it again"):
        read_manifest(tmp_path / "run" / "stage1")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text("")
    for read in (read_manifest, lambda path: read_json(path, dict)):
        with pytest.raises(ArtifactError) as error:
            read(tmp_path / "run" / "stage1")
        command = f"corellarec run --resume --out {tmp_path / 'run'}"
        assert f"`{command}` writes it again" in str(error.value)
