"""The search for hyper-parameters."""

import json
import subprocess
import sys

import pytest
from rich.console import Console

from command_line import call, options
from corellarec.base.errors import ConfigError
from corellarec.config import CRM_MODELS, load_config, with_settings
from corellarec.research.tune import Tuner, search_space

# The small network's settings would not be searched if they were given.
SEARCHED = ("crm.embedding_dim", "crm.deep_layers")


@pytest.fixture
def settings(tiny_settings):
    left = [s for s in tiny_settings if not s.startswith(SEARCHED)]
    return options([*left, "crm.model=dcnv2", "stage1.epochs=2"])


def test_a_search_goes_on_where_it_stopped_and_its_best_trains(settings, monkeypatch, capsys,
                                                               tmp_path):  # fmt: skip
    out = tmp_path / "t"
    arguments = ["tune", "--out", out, "--json", *settings, "--trials"]
    code, first, err = call(monkeypatch, capsys, *arguments, 2)
    assert code == 0, err
    first = json.loads(first)
    assert first["trials"] == 2
    assert err.count("trial ") == 2
    code, second, err = call(monkeypatch, capsys, *arguments, 4)
    second = json.loads(second)
    assert err.count("trial ") == 2  # two more
    assert second["trials"] == 4
    assert second["crm_log_loss"] <= first["crm_log_loss"]
    drawn = [tuple(trial["settings"].items()) for trial in second["finished"]]
    assert len(drawn) + second["cut_off"] == 4
    assert len(set(drawn)) == len(drawn)  # going on repeats no trial
    # The best trial, trained as a stage, has the same validation log loss.
    code, trained, err = call(monkeypatch, capsys, "train", "--stage", 1, "--config",
                              out / "best.toml", "--out", tmp_path / "r", "--json",
                              *settings)  # fmt: skip
    assert code == 0, err
    assert json.loads(trained)["best"]["crm."] == second["crm_log_loss"]


def test_the_first_trial_is_the_settings_as_they_are(tiny_settings, tmp_path):
    config = load_config(settings=[*tiny_settings, "crm.embedding_dim=16", "crm.dropout=0.25",
                                   "crm.deep_layers=[16, 8]"])  # fmt: skip
    tuner = Tuner(config, [], tmp_path, Console(quiet=True))
    asked = tuner.study.ask()
    for name in ("crm.embedding_dim", "crm.dropout", "stage1.learning_rate"):
        assert tuner.space[name](asked, name) == pytest.approx(
            {"crm.embedding_dim": 16, "crm.dropout": 0.25, "stage1.learning_rate": 2e-3}[name]
        )
    # Widths that the space does not have are drawn from it.
    assert tuner.space["crm.deep_layers"](asked, "crm.deep_layers") != [16, 8]


def test_a_search_killed_in_the_middle_keeps_its_trials(settings, monkeypatch, capsys, tmp_path):
    out = tmp_path / "t"
    code = (
        "import os\n"
        "from corellarec.research import tune\n"
        "score = tune.CrmTask.validate\n"
        "calls = []\n"
        "def validate(self):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 5: os._exit(9)\n"
        "    return score(self)\n"
        "tune.CrmTask.validate = validate\n"
        "from corellarec.cli.entry import main; main()"
    )
    arguments = ["tune", "--out", str(out), "--json", *settings, "--trials", "3"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], check=False,
                          capture_output=True)  # fmt: skip
    assert done.returncode == 9
    code, found, err = call(monkeypatch, capsys, *arguments)
    assert code == 0, err
    assert json.loads(found)["trials"] == 3
    assert err.count("trial ") == 2  # the first was kept


def test_bad_searches_end_with_one_line(settings, monkeypatch, capsys, tmp_path):
    out = tmp_path / "t"
    assert call(monkeypatch, capsys, "tune", "--out", out, *settings, "--trials", 1)[0] == 0
    code, _, err = call(monkeypatch, capsys, "tune", "--out", out, *settings, "--set", "seed=1")
    assert code == 2
    assert "was searched with other settings (seed was 0, is 1)" in err
    given = options([f"{name}=x" for name in search_space("lr", [])])
    with pytest.raises(ConfigError, match="nothing is left to search"):
        search_space("lr", [name.partition("=")[0] for name in given[1::2]])
    with pytest.raises(ConfigError, match="trained elsewhere"):
        search_space("external", [])


@pytest.mark.parametrize("model", CRM_MODELS)
def test_every_setting_of_a_space_exists(model):
    config = load_config(settings=[f"crm.model={model}"])

    class Trial:
        def suggest_float(self, name, low, high, log=False):
            return low

        def suggest_categorical(self, name, values):
            return values[-1]

    found = {name: suggest(Trial(), name) for name, suggest in search_space(model, []).items()}
    assert with_settings(config, found) != config


def test_validation_alone_is_looked_at(tiny_settings, tmp_path, monkeypatch):
    """A search never asks for a test row."""
    from corellarec.data.log import Log

    asked = []
    rows_of = Log.rows_of
    monkeypatch.setattr(Log, "rows_of", lambda log, name: asked.append(name) or rows_of(log, name))
    tuner = Tuner(load_config(settings=[*tiny_settings, "stage1.epochs=1"]), [], tmp_path,
                  Console(quiet=True))  # fmt: skip
    tuner.search(1)
    assert set(asked) == {"train", "validation"}
