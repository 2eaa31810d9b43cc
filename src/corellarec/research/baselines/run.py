"""A baseline from its name to its figures."""

from pathlib import Path
from typing import Literal

from rich.console import Console

from corellarec.base.errors import ConfigError
from corellarec.config import Config, with_settings
from corellarec.research.baselines import ctrl, p5, tallrec
from corellarec.research.baselines.experiment import BaselineResult, Experiment, Trained

NAMES = ("tallrec", "ctrl", "p5")


def run_baseline(
    name: str,
    config: Config,
    *,
    rows: str | None,
    model: str | None,
    directory: Path,
    console: Console,
) -> BaselineResult | None:
    """Train a baseline and measure it, or find it done; returns its figures.

    Under ``torchrun`` processes share training and scoring; all but the first return None.

    Args:
        name: One of ``NAMES``.
        config: Settings, as of a run.
        rows: Training rows for the language model, or ``all``; None is the baseline's default.
        model: P5's encoder-decoder; None is a small one with random weights.
        directory: Where everything is written.
        console: Where progress goes.

    Raises:
        ConfigError: If the name, the rows or the settings are not allowed, or the directory holds
            something else.
    """
    if name not in NAMES:
        raise ConfigError(f"no baseline named {name!r}; there are: {', '.join(NAMES)}")
    if model is not None and name != "p5":
        raise ConfigError(f"--model is for p5; {name} takes llm.model")
    if config.llm.adapter and name != "p5":
        raise ConfigError(f"llm.adapter: {name} tunes an adapter of its own: leave it out")
    if name == "tallrec":
        config = with_settings(config, {"llm.layout": "paper"})
    default = tallrec.ROWS if name == "tallrec" else config.stage2.rows
    count = _count(str(default) if rows is None else rows)
    experiment = Experiment(config, name, count, model, directory, console)
    with experiment.workspace.alone():
        experiment.start()
        if (found := experiment.done()) is not None:
            experiment.workspace.display.say(f"{name}: done before")
            return found
        trained = _train(experiment)
        return experiment.measure(trained)


def _count(rows: str) -> int | Literal["all"]:
    if rows == "all":
        return "all"
    if not rows.isdecimal() or int(rows) < 1:
        raise ConfigError(f"--rows: expected a number from 1, or all; found {rows!r}")
    return int(rows)


def _train(experiment: Experiment) -> Trained:
    match experiment.name:
        case "tallrec":
            return tallrec.tallrec(experiment)
        case "ctrl":
            return ctrl.ctrl(experiment)
        case _:
            return p5.p5(experiment)
