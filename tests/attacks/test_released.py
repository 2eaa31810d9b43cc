"""Runs and cascades of released versions are refused in one line that says what to do.

``released`` holds the texts of a small run of each: ``corellarec run`` on the data and the language
model of ``tests/small.py``, without tables and weights.
"""

import shutil
from pathlib import Path

import pytest
from calls import call, settings

RELEASED = sorted((Path(__file__).parent / "released").iterdir())


@pytest.mark.parametrize("old", RELEASED, ids=lambda path: path.name)
def test_runs_of_released_versions(attack, old, tmp_path, scratch, tiny_settings):
    run, pairs = tmp_path / "run", tmp_path / "pairs.csv"
    shutil.copytree(old, run)
    pairs.write_text("user,item\n1,1\n")
    commands = [
        ["info", run],
        ["report", run],
        ["evaluate", run],
        ["predict", run, pairs, "-o", tmp_path / "scored.csv"],
        ["predict", run / "cascade", pairs, "-o", tmp_path / "scored.csv"],
        ["run", *settings(tiny_settings), "--out", run, "--resume"],
    ]
    for command in commands:
        found = call(command, scratch)
        tells = "older version of corellarec wrote it" in found.text
        bad = found.kind != "refused" or not tells or "error: " not in found.last_line
        attack.note(found.kind, found.text[-500:], bad=bad)
    if attack.hard:
        command = ["run", *settings(tiny_settings), "--out", run, "--overwrite"]
        found = call(command, scratch)
        attack.note(f"{found.kind} with --overwrite", found.text, bad=found.kind != "done")
