"""The same settings and data give the same files on any day, in any process."""

import os
import subprocess
import sys

import torch

from command_line import options
from corellarec.base.artifacts import read_manifest


def test_a_second_run_writes_the_same_cascade(finished, tiny_settings, tmp_path):
    settings = {"PYTHONHASHSEED": "5", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-m", "corellarec", "run", "--out", tmp_path / "again"]
    done = subprocess.run(
        [*command, *options(tiny_settings)],
        env=os.environ | settings,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    first, again = (
        read_manifest(run / "cascade")["files"] for run in (finished[0], tmp_path / "again")
    )
    assert again == first
