import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("name", ["llm_scoring", "llm_tuning", "llm_candidates"])
def test_a_benchmark_runs_on_a_tiny_model(name, tiny_llm, movielens):
    done = subprocess.run(
        [sys.executable, BENCHMARKS / f"{name}.py", "--model", tiny_llm, "--data", movielens,
         "--rows", "40", "--rounds", "1", "--device", "cpu", "--dtype", "float32", "--json"],
        capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table, figures = done.stdout.split("GEMM:")
    found = json.loads(figures.splitlines()[1])
    assert len(found["rows"]) == len(table.splitlines()) - 1
    naive, *ours = found["rows"]
    assert (
        found["ratio"]
        == max(row[found["metric"]] for row in found["rows"]) / naive[found["metric"]]
    )
    assert min(row["tokens_per_sample"] for row in ours) < naive["tokens_per_sample"] / 2
