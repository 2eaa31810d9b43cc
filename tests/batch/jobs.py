"""A cascade that routes, and pairs to score as a job."""

from dataclasses import replace

import numpy as np
import polars as pl

import corellarec as cr
from corellarec.base.console import Console, Display
from corellarec.batch.score import score

KNOWN, ITEMS = 20, 30  # users and items of the pairs
ROWS, ROUTED = 630, 63  # of all pairs, with a budget of a tenth


def routing(run, directory, *, budget=0.1, threshold=-1.0):
    """Save a finished run's cascade, made to route by entropy: the tiny model earns nothing."""
    cascade = cr.Cascade.load(run, device="cpu")
    rule = cascade.router.rules["entropy"]
    rule = replace(rule, threshold=threshold, verdict=replace(rule.verdict, helps=True))
    rules = cascade.router.rules | {"entropy": rule}
    cascade.router = replace(
        cascade.router, policy="entropy", budget=budget, hard=True, rules=rules
    )
    cascade.save(directory)
    return directory


def all_pairs(seed=0):
    """Some users, an unknown one among them, with some items, in random order."""
    pairs = pl.DataFrame({"user": [str(1 + i) for i in range(KNOWN)] + ["new"]}).join(
        pl.DataFrame({"item": [str(1 + i) for i in range(ITEMS)]}), how="cross"
    )
    pairs = pairs.with_columns(number=pl.int_range(pl.len(), dtype=pl.Int64))
    return pairs.sample(fraction=1, shuffle=True, seed=seed)


def write_input(folder, pairs, files=3):
    folder.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(np.array_split(np.arange(pairs.height), files)):
        pairs[part].write_parquet(folder / f"{number}.parquet")
    return str(folder)


def loader(directory, **more):
    return lambda: cr.Cascade.load(directory, device="cpu", **more)


def job(directory, source, output, load=None, **more):
    display = Display(Console(quiet=True), quiet=True)
    return score(load or loader(directory), directory, str(source), output, display=display, **more)


def read(output):
    return pl.read_parquet(output / "part-*.parquet").sort("number")
