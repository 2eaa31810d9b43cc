"""What the documents show works.

Every line that calls ``corellarec`` must parse. Fenced blocks after ``<!-- tested -->`` are run in
the order of their page, in one directory: shell lines through the command line, TOML as a
configuration, Python as it stands.
"""

import json
import re
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer

from command_line import call, options
from corellarec.cli.main import app
from corellarec.config import parse_config
from data.test_wizard import write_shop

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "docs" / "hooks"))
import reference  # noqa: E402 (a module of the site's build)

DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
    for path in [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
}
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.M | re.S)
TESTED = re.compile(r"^<!-- tested -->\n```(\w*)\n(.*?)^```$", re.M | re.S)
CALL = re.compile(r"^\s*(?:\.venv/bin/)?corellarec( .*)$", re.M)
INLINE = re.compile(r"`(?:\.venv/bin/)?corellarec( [a-z][^`]*)`")


def shown(text):
    """Arguments of every call in the fenced blocks of a document."""
    for _, _, block in BLOCK.findall(text):
        yield from CALL.findall(block.replace("\\\n", " "))


def parse(arguments):
    """Parse a call's arguments; raises what the command line raises."""
    words = [word for word in shlex.split(arguments, comments=True) if word != "--help"]
    command: Any = typer.main.get_command(app)
    while words and hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context("corellarec", words)


def calls():
    for name, text in DOCUMENTS.items():
        for line in shown(text):
            yield pytest.param(line, id=f"{name}:{line.strip()}")


@pytest.mark.parametrize("line", list(calls()))
def test_a_shown_command_parses(line):
    parse(line)


@pytest.mark.parametrize("line", [" run --prset quick", " rum", " train --preset quick"])
def test_a_wrong_command_would_not_parse(line):
    with pytest.raises(Exception, match=r"prset|rum|stage"):
        parse(line)


@pytest.mark.parametrize(
    "text", [*DOCUMENTS.values(), reference.settings(), reference.commands()],
    ids=[*DOCUMENTS, "settings", "commands"],
)  # fmt: skip
def test_commands_named_in_the_text_exist(text):
    for line in INLINE.findall(" ".join(text.split())):
        try:
            parse(line)
        except Exception as error:
            # A name alone, such as `corellarec train`, leaves its arguments out.
            if type(error).__name__ != "MissingParameter":
                raise AssertionError(f"corellarec{line}: {error}") from error


def test_blocks_marked_as_tested_work(monkeypatch, capsys, tmp_path):
    kinds = []
    for name, text in DOCUMENTS.items():
        folder = tmp_path / name.replace("/", "-")
        folder.mkdir()
        monkeypatch.chdir(folder)
        space = {}
        for kind, block in TESTED.findall(text):
            kinds.append(kind)
            if kind == "toml":
                parse_config(tomllib.loads(block))
            elif kind == "python":
                exec(block, space)
            else:
                for line in CALL.findall(block.replace("\\\n", " ")):
                    if "DIRECTORY" in line and not Path("DIRECTORY").exists():
                        Path("DIRECTORY").mkdir()
                        write_shop(Path("DIRECTORY"))
                    status, _, err = call(monkeypatch, capsys, *shlex.split(line, comments=True))
                    assert status == 0, f"{name}: corellarec{line}: {err}"
    assert {"", "toml", "python"} <= set(kinds)


def test_the_first_pages_say_who_the_program_is_for():
    readme, guide = DOCUMENTS["README.md"], DOCUMENTS["docs/guide.md"]
    assert "\n## When not to use it\n" in readme
    assert "\n## When another program is the better one\n" in guide
    needs = readme.partition("\n## What a log needs\n")[2].partition("\n## ")[0]
    for need in ("id", "time", "title", "negatives"):
        assert need in needs
    for text in (readme, guide):
        said = " ".join(text.replace("*", "").split())
        assert "conventional recommender model" in said
        assert "not customer relationship management" in said


def test_the_guides_own_class_is_trained_and_aligned(tiny_settings, monkeypatch, capsys, tmp_path):
    guide = DOCUMENTS["docs/how-to/own-crm.md"]
    (code,) = (block for kind, block in TESTED.findall(guide) if kind == "python")
    (tmp_path / "guides_crm.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    settings = [*tiny_settings, "crm.model=guides_crm:TwoLayers", "crm.options.width=24"]
    for stage in (1, 2):
        status, out, err = call(monkeypatch, capsys, "train", "--stage", stage, "--out", "r",
                                "--json", *options(settings))  # fmt: skip
        assert status == 0, err
    assert json.loads(out)["history"][-1]["align_loss"] > 0
