"""Searches and studies on actors of Ray; tests/batch/test_batch_ray.py has the cluster for them."""

from rich.console import Console

from corellarec.config import load_config
from corellarec.research.study.cells import cells
from corellarec.research.study.run import Study
from corellarec.research.study.spec import load_study
from corellarec.research.tune import Tuner

SPEC = """
preset = "quick"
seeds = [0]
crms = ["ml-100k/lr", "ml-100k/fm"]

[ablation."with dropout".crm]
dropout = 0.1
"""
LITTLE = ["stage1.epochs=1", "stage2.rows=0", "stage3.rows=0", "evaluate.test_rows=40"]


def search(settings, directory, trials):
    """So many trials on two actors, then two more on one."""
    config = load_config(settings=[*settings, *LITTLE, "crm.model=lr"])
    first = Tuner(config, ["crm.id_dropout"], directory, Console(quiet=True)).search(trials, 2)
    return first, Tuner(config, ["crm.id_dropout"], directory, Console(quiet=True)).search(
        trials + 2, 1
    )


def study(settings, directory):
    """A small study, trained on two actors."""
    (directory / "small.toml").write_text(SPEC)
    spec, base = load_study(str(directory / "small.toml"), [*settings, *LITTLE])
    made = Study(spec, base, directory / "out", Console(quiet=True))
    made.train_on_ray(2)
    return made, cells(spec, base, directory / "out")
