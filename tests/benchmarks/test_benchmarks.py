"""Every benchmark at its smallest size: it ends, and its last line is one JSON object."""

import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
LLM = ("llm_scoring", "llm_tuning", "llm_candidates")
SIZES = {
    "calibration": ["--users", "40", "--rows", "5", "--simulations", "3", "--resamples", "20"],
    "carried": ["--set", "stage1.epochs=1", "--set", "stage3.rows=60",
                "--set", "stage3.validation_rows=60", "--set", "cascade.validation_rows=400",
                "--set", "evaluate.test_rows=20"],
    "crm_quality": ["--set", "stage1.epochs=1", "--set", "crm.embedding_dim=8"],
    "crm_training": ["--rounds", "1", "--steps", "2", "--large", "10000"],
    "crm_time_to_auc": ["--models", "dcnv2,stream", "--target", "0.1", "--epochs", "1"],
    "crm_zoo": ["--models", "lr,dcnv2"],
    **dict.fromkeys(LLM, ["--rows", "40", "--peer-rows", "16", "--rounds", "1"]),
    "llama_7b": ["--blocks", "1", "--tokens", "800"],
    "prepare": ["--rows", "4000", "--slice", "2000", "--rounds", "1"],
    "ranking": ["--users", "30", "--orders", "1"],
    "scale": [],
    "score": ["--rows", "400", "--larger", "2", "--asked", "0.01", "--rounds", "1", "--large"],
    "serve": ["--seconds", "0.5", "--memory-seconds", "0.5", "--llm", "killed"],
    "serve_replay": ["--rows", "8"],
    "estimate": ["--simulations", "3", "--explored", "0.3"],
    "second_crm": ["--set", "stage1.epochs=1", "--set", "stage3.rows=60",
                   "--set", "stage3.validation_rows=60", "--set", "cascade.validation_rows=100",
                   "--set", "evaluate.test_rows=100"],
    "vocabulary": ["--model", "lr", "--set", "stage1.epochs=1"],
    "window_reader": ["--rows", "5000", "--batches", "2", "--rounds", "1"],
}  # fmt: skip
KEYS = {
    "calibration": {"worlds"},
    "carried": {"rows", "ways"},
    "crm_quality": {"mean_auc", "runs"},
    "crm_training": {"dcnv2", "din", "stream", "large", "gemm_gflops"},
    "crm_time_to_auc": {"target", "median_seconds", "runs"},
    "crm_zoo": {"preset", "models"},
    "llm_scoring": {"unit", "ways", "gemm_flops"},
    "llm_tuning": {"unit", "ways", "gemm_flops"},
    "llm_candidates": {"unit", "ways", "gemm_flops", "extend_ms", "state_mb"},
    "llama_7b": {
        "blocks",
        "parameters",
        "weights_gib",
        "memory_gib",
        "gemm_flops",
        "tokens",
        "sequences",
        "answers",
        "stream_tokens_per_row",
        "paper_tokens_per_row",
        "score_seconds",
        "score_tokens_per_s",
        "score_of_gemm",
        "largest_difference",
        "mean_difference",
        "difference_if_joined",
        "largest_difference_fp32",
        "trained_parameters",
        "tune_seconds",
        "tune_tokens_per_s",
        "tune_of_gemm",
        "kept_mib_per_token",
        "loss_before",
        "loss_after",
    },
    "prepare": {"full", "ours", "pandas", "ratio_with_histories"},
    "ranking": {"ours", "ties", "largest_difference"},
    "scale": {"jobs"},
    "score": {"rows", "rows_per_s", "memory_mb"},
    "serve": {"rows_per_s", "half", "full", "twice", "llm", "memory_mb", "peers", "deadline_ms"},
    "serve_replay": {"rows", "largest"},
    "estimate": {"truth", "held", "width"},
    "second_crm": {"rows", "blends"},
    "vocabulary": {"model", "sizes"},
    "window_reader": {"window_ms", "whole_ms", "fuxictr_ms", "fuxictr_disk_mb"},
}
PEERS = {
    "crm_quality": "FuxiCTR",
    "crm_time_to_auc": "DCNv2",
    "crm_training": "FuxiCTR",
    "llm_scoring": "transformers",
    "llm_tuning": "transformers and peft",
    "llm_candidates": "transformers",
    "prepare": "pandas",
    "score": "predict",
    "second_crm": "din",
}


@pytest.fixture(scope="module")
def outputs(movielens, tiny_llm, finished, tmp_path_factory):
    """What each benchmark printed, as a future; two of them run at a time."""
    folder = tmp_path_factory.mktemp("benchmarks")
    absent = folder / "absent"
    absent.mkdir()
    (absent / "ray.py").write_text("raise ImportError('not installed')\n")
    data = ["--data", movielens]
    inputs = {
        "crm_quality": data,
        "crm_training": data,
        "crm_time_to_auc": data,
        "crm_zoo": [*data, "--out", folder / "zoo"],
        "vocabulary": data,
        "ranking": data,
        "llama_7b": [*data, "--tokenizer", tiny_llm, "--device", "cpu"],
        "score": ["--run", finished[0]],
        "serve": ["--run", finished[0]],
        "serve_replay": ["--run", finished[0]],
        "estimate": ["--run", finished[0]],
        "second_crm": [*data, *(part for setting in (
            f"llm.model={tiny_llm}", "llm.dtype=float32", "llm.history_length=5", "llm.window=20",
        ) for part in ("--set", setting))],
    }  # fmt: skip
    inputs |= dict.fromkeys(LLM, [*data, "--model", tiny_llm, "--device", "cpu"])

    def run(name):
        command = [sys.executable, BENCHMARKS / f"{name}.py", "--quick", "--json"]
        paths = [str(absent)] if name == "window_reader" else []
        paths += filter(None, [os.environ.get("PYTHONPATH")])
        return subprocess.run(
            [*command, *inputs.get(name, []), *SIZES[name]],
            capture_output=True, text=True, timeout=300,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
        )  # fmt: skip

    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(run, name) for name in SIZES}
        pool.shutdown(cancel_futures=True)


@pytest.fixture
def printed(outputs):
    """The lines a benchmark printed, and the JSON object that the last of them is."""

    def not_json(constant):
        raise ValueError(f"{constant} is not JSON")

    def read(name):
        done = outputs[name].result()
        assert done.returncode == 0, done.stderr
        *lines, last = done.stdout.splitlines()
        return lines, json.loads(last, parse_constant=not_json)

    return read


def test_every_script_is_tested():
    scripts = {path.stem for path in BENCHMARKS.glob("*.py") if "__main__" in path.read_text()}
    scripts.remove("recbole_peer")  # runs where RecBole is installed
    assert scripts == SIZES.keys() == KEYS.keys()


@pytest.mark.parametrize("name", SIZES)
def test_the_last_line_is_one_json_object(name, printed):
    lines, found = printed(name)
    assert lines
    assert found["benchmark"] == name
    assert found["quick"] is True
    assert found.keys() - {"benchmark", "quick", "ratio", "ratio_of"} == KEYS[name]


@pytest.mark.parametrize("name", PEERS)
def test_the_ratio_names_the_peer(name, printed):
    _, found = printed(name)
    assert math.isfinite(found["ratio"])
    assert found["ratio"] > 0
    assert PEERS[name] in found["ratio_of"]


def test_the_service_answers_as_predict_does(printed):
    _, found = printed("serve_replay")
    assert found["rows"] == 8
    assert found["largest"]["p"] < 1e-5
    assert found["largest"]["p_crm"] < 1e-6


def test_a_benchmark_without_a_peer_has_no_ratio(printed):
    _, found = printed("crm_zoo")
    assert "ratio" not in found
    assert [one["model"] for one in found["models"]] == ["lr", "dcnv2"]


def test_a_peer_that_is_not_installed_is_null(printed):
    lines, found = printed("window_reader")
    assert found["ratio"] is found["fuxictr_ms"] is found["fuxictr_disk_mb"] is None
    assert "FuxiCTR" in found["ratio_of"]
    assert found["window_ms"] > 0
    assert any("not installed" in line for line in lines)


@pytest.mark.parametrize("name", LLM)
def test_a_stream_reads_fewer_tokens_than_a_prompt_for_each_sample(name, printed):
    _, found = printed(name)
    naive, *ours = found["ways"]
    assert min(way["tokens_per_sample"] for way in ours) < naive["tokens_per_sample"] / 2
    assert found["ratio"] in [way["ratio"] for way in ours]
    assert naive["ratio"] == 1.0


def test_a_block_of_llama_packs_and_learns(printed):
    _, found = printed("llama_7b")
    assert found["parameters"] == 2 * 32000 * 4096 + 202_383_360 + 4096
    assert found["stream_tokens_per_row"] < found["paper_tokens_per_row"]
    assert found["sequences"] > 1
    assert found["largest_difference_fp32"] < 1e-4
    assert found["difference_if_joined"] > 1e-3
    assert found["loss_after"] < found["loss_before"]


@pytest.mark.parametrize("model", ["dcnv2", "din"])
def test_all_libraries_train_and_score(model, printed):
    _, found = printed("crm_training")
    libraries = {"corellarec", "corellarec in fp32", "FuxiCTR", "DeepCTR-Torch"}
    for kind in ("train", "score"):
        assert found[model][kind]["samples_per_second"].keys() == libraries
        assert min(found[model][kind]["ratios"].values()) > 0
    assert sum(found[model]["shares"].values()) == pytest.approx(1.0)


def test_pandas_writes_as_many_rows(printed):
    _, found = printed("prepare")
    assert found["ours"]["rows"] == found["pandas"]["rows"] == 2000
    assert found["full"]["rows"] == 4000
