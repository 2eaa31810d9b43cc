"""Rows/s and memory of ``corellarec score`` beside ``predict``, both in one process.

Synthetic pairs of a run's users and items, in random order. Both are asked to send the same small
share of the rows to the LLM. Each runs in a process of its own; the time is that of scoring, the
memory the most that it and its workers held together (pages that they share count once). The larger
input is scored by ``score`` alone: by one process, two, and two actors of Ray, whose start is part
of the time.

    python benchmarks/score.py --run runs/quick [--rows N] [--larger TIMES] [--asked SHARE]
        [--rounds N] [--large [WAY ...]] [--quick] [--json]
"""

import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import psutil

from corellarec.base.console import Console, Display
from corellarec.batch.score import score
from corellarec.cascade.cascade import Cascade
from corellarec.cascade.files import predict_file
from harness import emit, median_ratio, parse, parser, take_turns

PART = 250_000  # rows written at once


def write_pairs(path: Path, cascade: Cascade, rows: int) -> None:
    """A directory of Parquet files of random pairs."""
    path.mkdir()
    chance = np.random.default_rng(0)
    users, items = cascade.log.users["id"], cascade.log.items["id"]
    for first in range(0, rows, PART):
        size = min(PART, rows - first)
        drawn = {"user": users.gather(chance.integers(0, len(users), size)),
                 "item": items.gather(chance.integers(0, len(items), size))}  # fmt: skip
        pl.DataFrame(drawn).write_parquet(path / f"{first:012}.parquet")


def one(way: str, cascade: Path, source: Path, output: Path, workers: int) -> None:
    """Score in this process, and print seconds and MiB."""
    load = partial(Cascade.load, cascade, device="cpu")
    begin = time.perf_counter()
    if way == "predict":
        predict_file(load(), source, output)
    else:
        display = Display(Console(stderr=True), quiet=True)
        engine = "ray" if way == "ray" else "local"
        score(load, cascade, str(source), output, engine=engine, workers=workers, display=display)
    print(time.perf_counter() - begin)


def measure(way: str, cascade: Path, source: Path, output: Path, workers: int = 1) -> list[float]:
    """Seconds and MiB of one way in another process."""
    given = [way, str(cascade), str(source), str(output), str(workers)]
    command = [sys.executable, __file__, "--one", *given]
    begun = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    most = 0.0
    while begun.poll() is None:
        most = max(most, memory_mb(begun.pid))
        time.sleep(0.2)
    printed, said = begun.communicate()
    if begun.returncode:
        sys.exit(said)
    return [float(printed.split()[-1]), most]


def memory_mb(pid: int) -> float:
    """MiB that a process and those below it hold together; Ray's own processes are not counted."""
    total = 0
    try:
        process = psutil.Process(pid)
        for part in [process, *process.children(recursive=True)]:
            with suppress(psutil.Error, IndexError):
                name = part.cmdline()[0]
                if part.pid == pid or "python" in name or name.startswith("ray::_Worker"):
                    total += part.memory_full_info().pss
    except psutil.Error:
        return 0.0
    return total / 2**20


LARGE = {
    "score, one process": ("score", "large", 1),
    "score, two processes": ("score", "large", 2),
    "score, two actors of Ray": ("ray", "large", 2),
}


def main() -> None:
    options = parser(__doc__, rounds=3)
    options.add_argument("--run", default="runs/quick", help="run whose cascade scores")
    options.add_argument("--rows", type=int, default=1_000_000, help="rows of the smaller input")
    options.add_argument("--larger", type=int, default=10, help="times as many in the larger one")
    options.add_argument("--asked", type=float, default=0.0002, help="share of rows for the LLM")
    options.add_argument(
        "--large", nargs="*", default=list(LARGE), choices=LARGE, help="what scores the larger one"
    )
    options.add_argument("--one", nargs=5, help="used by the script itself")
    given = parse(options, quick={"rows": 200_000, "larger": 5, "rounds": 1})
    if given.one:
        way, *paths, workers = given.one
        one(way, *map(Path, paths), workers=int(workers))
        return
    cascade = Cascade.load(given.run, device="cpu")
    rule = replace(cascade.router.rule, threshold=-1e9)  # the budget decides
    rule = replace(rule, verdict=replace(rule.verdict, helps=True))
    rules = {**cascade.router.rules, cascade.router.policy: rule}
    cascade.router = replace(cascade.router, budget=given.asked, hard=True, rules=rules)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cascade.save(folder / "cascade")
        sizes = {"small": given.rows, "large": given.rows * given.larger}
        for size, rows in sizes.items():
            write_pairs(folder / size, cascade, rows)
        whole = folder / "small.parquet"
        pl.scan_parquet(folder / "small" / "*.parquet").sink_parquet(whole)
        number = iter(range(10**6))

        def run(way: str, size: str, workers: int = 1) -> list[float]:
            output = folder / f"out{next(number)}"
            if way == "predict":
                output = output.with_suffix(".parquet")
            source = whole if way == "predict" else folder / size
            return measure(way, folder / "cascade", source, output, workers)

        ways = {
            "predict": partial(run, "predict", "small"),
            "score": partial(run, "score", "small"),
        }
        found = take_turns(ways, given.rounds, warm_up=False)
        large = {name: run(*LARGE[name]) for name in given.large}
    seconds = {way: [one[0] for one in rounds] for way, rounds in found.items()}
    rates = {way: sizes["small"] / float(np.median(of)) for way, of in seconds.items()}
    memory = {way: max(one[1] for one in rounds) for way, rounds in found.items()}
    print(f"{'':28} {'rows':>12} {'rows/s':>10} {'MiB':>7}")
    for way in ways:
        print(f"{way:28} {sizes['small']:12,} {rates[way]:10,.0f} {memory[way]:7,.0f}")
    for name, (took, mib) in large.items():
        print(f"{name:28} {sizes['large']:12,} {sizes['large'] / took:10,.0f} {mib:7,.0f}")
    figures = {
        "rows": sizes,
        "rows_per_s": rates | {name: sizes["large"] / took for name, (took, _) in large.items()},
        "memory_mb": memory | {name: mib for name, (_, mib) in large.items()},
    }  # fmt: skip
    local, on_ray = (figures["rows_per_s"].get(name) for name in list(LARGE)[1:])
    if local and on_ray:
        figures["ray_over_local"] = {"ratio": on_ray / local}
        print(f"Ray over processes, two workers each: {on_ray / local:.2f}")
    ratio = median_ratio(seconds["predict"], seconds["score"])
    emit(given, figures, ratio=ratio, ratio_of="rows/s, score with one worker over predict")


if __name__ == "__main__":
    main()
