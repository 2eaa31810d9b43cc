"""Tables fit 80 columns: no figure is cut, and no line is longer."""

import io

import polars as pl
import pytest
import torch
from rich.console import Console

from corellarec.base.machine import machine
from corellarec.cli.tables import (
    baseline_table,
    gains_table,
    models_table,
    ranking_table,
    search_table,
)
from corellarec.evaluation.parts import Figure
from corellarec.llm.catalog import listed_models
from corellarec.research.baselines.experiment import BaselineResult
from corellarec.research.tune import SearchResult, Trial
from corellarec.serve.estimate import Gain, Gains

SETTINGS = {
    "crm.embedding_dim": 128, "crm.history_length": 200, "crm.id_dropout": 0.2,
    "crm.dropout": 0.3571, "crm.deep.layers": [1024, 512, 256], "crm.stream.width": 256,
    "crm.cross.layers": 4, "stage1.learning_rate": 0.0012345, "stage1.weight_decay": 1.2345e-05,
    "stage1.batch_size": 4096,
}  # fmt: skip

GAIN = Gain(0.01234, -0.00123, 0.12345)


def baseline():
    figure = Figure(0.71234, 0.69876, 0.72999, 0.71234, 0.71234)
    return BaselineResult(
        baseline="tallrec", asked_rows=64, asked_model=None, model="SmolLM2-135M-Instruct",
        directory="runs/ml-1m-tallrec", machine=machine(torch.device("cpu")), rows=1_000_209,
        seconds=86_400.0, validation_log_loss=0.61234, test_rows=100_000,
        split_rows=200_042, test_users=12_345,
        test={name: figure for name in ("auc", "log_loss", "accuracy")}, ms_per_sample=123.456,
        config={}, key="k",
    )  # fmt: skip


def ranking():
    row = {"user": "A3SGXH7AUHU8GW", "rank": 100, "item": "tt0114709-special-edition", "p": 0.98765}
    return pl.DataFrame([{**row, "source": "cascade"}, {**row, "item": "x" * 90, "source": "crm"}])


TITLES = {
    "tt0114709-special-edition": "Wallace & Gromit: The Best of Aardman Animation (1996)",
    "x" * 90: "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
}
TABLES = {
    "search": lambda: search_table(
        SearchResult("stream", 0.58123, SETTINGS, 120, 83, "runs/tune/best.toml",
                     [Trial(0.58123 + n / 1e3, SETTINGS) for n in range(5)])
    ),
    "baseline": lambda: baseline_table(baseline()),
    "models": lambda: models_table(listed_models()),
    "ranking": lambda: ranking_table(ranking(), TITLES),
    "gains": lambda: gains_table(Gains(9, 3, 0.1, 1, GAIN, GAIN, GAIN)),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_nothing_is_cut_at_80_columns(name):
    text = io.StringIO()
    Console(width=80, file=text, color_system=None).print(TABLES[name]())
    found = text.getvalue()
    assert "…" not in found
    assert max(map(len, found.splitlines())) <= 80
    whole = {
        "search": ["0.5812", "0.5852", "0.00123", "1.23e-05", "4096"],
        "baseline": ["0.7123 (0.699 to 0.730)", "1,000,209", "86400"],
        "models": [one.source for one in listed_models()],
        "ranking": ["0.9877", "100"],
        "gains": ["+0.0123", "-0.0012 to +0.1235", "doubly robust"],
    }
    for figure in whole[name]:
        assert figure in found
