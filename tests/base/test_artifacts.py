import pytest

from corellarec.base.artifacts import read_manifest, write_text, writing
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
