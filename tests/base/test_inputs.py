import os

import pytest

from corellarec.base.errors import LONGEST, ConfigError, DataError
from corellarec.base.inputs import DEEPEST, MOST_TOML, check_file, parse_toml, read_toml


def test_what_is_no_file_is_refused_before_it_is_opened(tmp_path):
    pipe, folder, file = tmp_path / "pipe", tmp_path / "folder", tmp_path / "file"
    os.mkfifo(pipe)
    folder.mkdir()
    file.write_text("a = 1\n")
    check_file(file)
    for path, what in (
        (pipe, "is a pipe"),
        (folder, "is a directory"),
        (tmp_path / "none", "is not there"),
        (tmp_path / "a\0b", "cannot be read"),
        (tmp_path / ("a" * 300), "File name too long"),
    ):
        with pytest.raises(DataError, match=what):
            check_file(path)
        with pytest.raises(ConfigError, match=what):
            read_toml(path)
    assert read_toml(file) == {"a": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a = [", "not valid TOML"),
        (b"a = " + b"9" * 5000, "not valid TOML"),
        (b"a = " + b"[" * 100_000, "not valid TOML"),
        (b"a." * 5000 + b"a = 1", f"more than {DEEPEST} tables"),
        (b"a = '\xff'", "not UTF-8 text .byte 5"),
        (b"#" * (MOST_TOML + 1), "no file of settings"),
    ],
)
def test_settings_that_are_none(content, message, tmp_path):
    (tmp_path / "c.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_toml(tmp_path / "c.toml")


def test_trees_up_to_the_limit_are_read():
    keys = ".".join("a" * (DEEPEST - 1))
    tree = parse_toml(f"{keys} = 1", "text")
    for _ in range(DEEPEST - 1):
        tree = tree["a"]
    assert tree == 1


def test_a_message_is_one_printable_line():
    assert str(DataError("item 'a\nb\x1b[31m\ud800é'")) == r"item 'a\nb\x1b[31m\ud800é'"
    assert len(str(DataError("x" * 100_000))) < LONGEST + 10
