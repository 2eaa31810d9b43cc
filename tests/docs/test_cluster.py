"""The files for clusters call commands that there are."""

import shlex
import subprocess
from pathlib import Path

import pytest
import typer
import yaml

from corellarec.cli.main import app

DEPLOY = Path(__file__).parents[2] / "deploy"
SCRIPTS = sorted(DEPLOY.glob("*.sbatch"))


def check(words):
    """Parse a call of the command line; raises what it raises."""
    command = typer.main.get_group(app).commands[words[0]]
    command.make_context(words[0], [word if "$" not in word else "4" for word in words[1:]])


def test_the_job_of_kuberay_calls_a_command():
    job = yaml.safe_load((DEPLOY / "rayjob.yaml").read_text("utf-8"))
    program, *words = shlex.split(job["spec"]["entrypoint"])
    assert program == "corellarec"
    check(words)
    workers = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    cores = workers["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"]
    assert workers["replicas"] * int(cores) == int(words[words.index("--workers") + 1])


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_the_scripts_of_slurm_call_a_command(path):
    subprocess.run(["bash", "-n", path], check=True)
    text = path.read_text("utf-8").replace("\\\n", " ").replace("$((", "$(").replace("))", ")")
    text = text.replace("$(SLURM_JOB_NUM_NODES * SLURM_CPUS_PER_TASK)", "$N")
    calls = [line for line in text.splitlines() if "corellarec " in line and line[0] != "#"]
    assert len(calls) == 1
    words = shlex.split(calls[0])
    check(words[words.index("corellarec") + 1 :])


def test_there_are_scripts():
    assert {path.stem for path in SCRIPTS} == {"score", "score-ray", "train"}
