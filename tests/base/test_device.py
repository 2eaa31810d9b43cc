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


def test_products_of_many_shapes_do_not_fill_the_memory():
    """300 lengths of batches: with torch's own settings their kernels hold 187 MiB."""
    program = """
import corellarec.base.device, torch
from corellarec.base.machine import release_memory

torch.set_num_threads(1)
layer = torch.nn.Linear(576, 1536, bias=False, dtype=torch.bfloat16)

@torch.no_grad()
def held_after(lengths):
    for length in lengths:
        layer(torch.ones(length, 576, dtype=torch.bfloat16))
    release_memory()
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Anonymous"))

before = held_after(range(1000, 1080))
print((held_after(range(1100, 1400)) - before) / 1024)
"""
    capacities = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
    given = {name: value for name, value in os.environ.items() if name not in capacities}
    printed = subprocess.run(
        [sys.executable, "-c", program], env=given, capture_output=True, text=True, check=True
    ).stdout
    assert float(printed) < 20
