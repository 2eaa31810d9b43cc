"""A small MovieLens in the official layout, a tiny language model, and a run of both."""

import json
import os
from pathlib import Path

import pytest
import torch

from command_line import options, run
from corellarec.config import load_config
from corellarec.data.log import Log
from corellarec.data.prepare import prepare
from small import write_movielens, write_tiny_llm

os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Two processes of two threads each wait for each other more than they compute.
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the attacks (``tests/attacks``)."""
    parser.addoption("--hard", action="store_true", help="try all attacks, not a selection")
    parser.addoption("--seed", type=int, default=1, help="of the attacks' random choices")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked ``hard`` unless asked for."""
    if not config.getoption("--hard"):
        for item in items:
            if item.get_closest_marker("hard"):
                item.add_marker(pytest.mark.skip(reason="with --hard: make test-hard"))


@pytest.fixture(scope="session")
def movielens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_movielens(tmp_path_factory.mktemp("data") / "ml-100k")


@pytest.fixture(scope="session")
def tiny_llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llm(tmp_path_factory.mktemp("llm"))


@pytest.fixture(scope="session")
def prepared(movielens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("prepared") / "data"
    prepare(load_config(settings=[f"data.path={movielens}"]).data, directory)
    return directory


@pytest.fixture(scope="session")
def log(prepared: Path) -> Log:
    return Log.load(prepared)


@pytest.fixture(scope="session")
def tiny_settings(movielens: Path, tiny_llm: Path) -> list[str]:
    """Settings of a run that ends in seconds."""
    return [
        f"data.path={movielens}",
        f"llm.model={tiny_llm}",
        "llm.history_length=5",
        "llm.window=20",
        "llm.dtype=float32",
        "device=cpu",
        "crm.members=[]",
        "crm.embedding_dim=8",
        "crm.history_length=10",
        "crm.deep_layers=[16, 8]",
        "stage1.epochs=3",
        "stage1.batch_size=128",
        "stage2.rows=200",
        "stage2.validation_rows=60",
        "stage3.rows=200",
        "stage3.validation_rows=60",
        "evaluate.bootstrap=30",
    ]


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, tiny_settings: list[str]
) -> tuple[Path, dict]:
    """A run's directory, made by the command line, and the JSON that it printed."""
    directory = tmp_path_factory.mktemp("runs") / "tiny"
    out, _ = run("run", "--out", directory, "--json", *options(tiny_settings))
    return directory, json.loads(out)
