"""Two processes as ``torchrun`` starts them, and what they do.

They are forked from one that has imported everything, which halves the time.
"""

import json
import os
import socket
import subprocess
import sys
import traceback
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from accelerate import Accelerator
from rich.console import Console
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import T5Config

from corellarec.config import StageConfig, load_config
from corellarec.evaluation.run import evaluate_run
from corellarec.research.baselines import p5
from corellarec.research.baselines.run import run_baseline
from corellarec.run.prepare import prepare_log
from corellarec.run.stages import train_stage
from corellarec.run.steps import run_steps
from corellarec.run.workspace import Workspace
from corellarec.train import loop
from corellarec.train.checkpoint import Progress
from corellarec.train.loop import train

QUIET = Console(quiet=True)


def in_two_processes(folder: Path, jobs: list[list]) -> None:
    """Run jobs, each the name of a function below and its arguments, in both processes."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    own = {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", __file__, str(folder), json.dumps(jobs)],
        env=os.environ | world | own | path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]


def main() -> int:
    """Fork, and run the jobs in both processes."""
    folder, jobs = Path(sys.argv[1]), json.loads(sys.argv[2])
    child = os.fork()
    os.environ |= {"RANK": "0" if child else "1", "LOCAL_RANK": "0" if child else "1"}
    try:
        for name, *arguments in jobs:
            globals()[name](folder, *arguments)
        code = 0
    except BaseException:
        traceback.print_exc()
        code = 1
    if child:
        return max(code, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    sys.stderr.flush()
    os._exit(code)


class Toy(nn.Module):
    """A table with a sparse gradient, and dense weights."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(40, 4, sparse=True)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, batch):
        rows, y = batch
        loss = (self.net(self.table(rows)).squeeze(1) - y).square().mean()
        return loss, {"half": loss.detach() / 2}


class ToyTask:
    """47 rows in batches of 8, the last of 7; validation ends the process if it is told to."""

    def __init__(self, die_after=99):
        self.model = Toy()
        self.parameter_groups = [{"params": list(self.model.parameters()), "lr": 0.02}]
        self.selection = {"net.": "loss", "table.": "loss"}
        generator = torch.Generator().manual_seed(1)
        self.rows = torch.randint(30, (47,), generator=generator)
        self.y = torch.randn(47, generator=generator)
        self.die_after = die_after

    def batches(self, epoch):
        return torch.randperm(47, generator=torch.Generator().manual_seed(epoch)).split(8)

    def size(self, part):
        return len(part)

    def read(self, part):
        return self.rows[part], self.y[part]

    def validate(self):
        self.die_after -= 1
        if self.die_after < 0:
            raise KeyboardInterrupt
        with torch.no_grad():
            return {"loss": float(self.model((self.rows, self.y))[0])}


def toy(folder, name, accumulate=1, die_after=99):
    """Train the toy, and write its weights and its history."""
    task, accelerator = ToyTask(die_after), Accelerator(cpu=True)
    try:
        with patch.object(loop, "CHECKPOINT_SECONDS", 0.0):
            state = train(
                task,
                StageConfig(epochs=4, evaluations=2, accumulate=accumulate, weight_decay=0.01),
                progress=Progress(folder / f"{name}.progress", "k"),
                seed=3,
                accelerator=accelerator,
            )
    except KeyboardInterrupt:
        return
    facts = {"step": state.step, "best": state.best, "history": state.history}
    weights = {key: value.tolist() for key, value in task.model.state_dict().items()}
    out = folder / f"{name}.{accelerator.process_index}.json"
    out.write_text(json.dumps(facts | {"weights": weights}))


def whole_run(folder, name, settings):
    """Train and measure a run."""
    run = Workspace(load_config(settings=settings), folder / name, QUIET)
    run_steps(run)
    found = evaluate_run(run)
    index = run.accelerator.process_index
    auc = {row.key: row.metrics["auc"].value for row in found.table}
    (folder / f"{name}.{index}.json").write_text(json.dumps(auc))


def sharded_run(folder, name, settings):
    """Train the stages and score, and count the frozen weights that a process holds."""
    run = Workspace(load_config(settings=settings), folder / name, QUIET)
    run_steps(run)
    own = sum(
        weight.to_local().numel() if isinstance(weight, DTensor) else weight.numel()
        for layer in run.llm.base.get_decoder().layers
        for weight in layer.parameters()
        if not weight.requires_grad
    )
    (folder / f"{name}.{run.accelerator.process_index}.json").write_text(json.dumps(own))


def first_stage(folder, name, settings):
    """Train stage 1."""
    run = Workspace(load_config(settings=settings), folder / name, QUIET)
    run.start()
    prepare_log(run)
    train_stage(run, 1)


def baseline(folder, name, settings, rows):
    """Train and measure a baseline."""
    config, quiet = load_config(settings=settings), {"console": QUIET, "model": None}
    exact = partial(T5Config, dropout_rate=0.0)  # random numbers are each process's own
    with patch.object(p5, "T5Config", exact):
        run_baseline(name, config, rows=rows, directory=folder / name, **quiet)


if __name__ == "__main__":
    sys.exit(main())
