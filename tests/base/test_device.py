"""What is set for the libraries that compute."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("given", [None, "7"])
def test_waiting_threads_spin_briefly_unless_told_otherwise(given):
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    if given:
        environment["GOMP_SPINCOUNT"] = given
    code = "import sys, os, corellarec; print('torch' in sys.modules, os.environ['GOMP_SPINCOUNT'])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", given or "4000"]
