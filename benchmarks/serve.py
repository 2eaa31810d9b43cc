"""Latency and throughput of the service: 20 candidates of one user a request, two cores in all.

The load comes from a process of its own over loopback. With the language model off, at half, full
and twice the capacity; then also at a tenth, with a server in the language model's place that
answers, is slow (5 s), hangs, or is killed. Beside it LitServe and BentoML serve the same CRM and
nothing else, if they are installed for the interpreter ``--peer-python``.

    python -m venv peers && peers/bin/pip install litserve bentoml   # and corellarec
"""

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from corellarec.cascade.cascade import Cascade
from harness import emit, parse, parser
from serving.llm_server import Server

HERE = Path(__file__).parent / "serving"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "BENTOML_DO_NOT_TRACK": "True"}
DELAYS_S = {"answers": 0.0, "slow": 5.0, "hangs": 1e6, "killed": 0.0}
PEERS = ("litserve", "bentoml")
LLM_LOADS = (0.1, 0.5, 1.0, 2.0)  # of the capacity without it


def asking(run: Path, directory: Path) -> Path:
    """A copy of a run's cascade whose router sends the most valuable tenth of the rows."""
    cascade = Cascade.load(run, device="cpu")
    router = cascade.router
    rule = replace(router.rule, verdict=replace(router.rule.verdict, helps=True))
    cascade.router = replace(router, rules={**router.rules, router.policy: rule})
    cascade.save(directory)
    return directory


@contextmanager
def process(command: list[str], port: int, path: str, log: Path) -> Iterator[subprocess.Popen]:
    """A server until it is no longer needed; yields once it answers."""
    with log.open("wb") as output:
        running = subprocess.Popen(
            command, stdout=output, stderr=output, env=ENVIRONMENT, start_new_session=True
        )
    try:
        for _ in range(1200):
            if running.poll() is not None:
                break
            if answers(f"http://127.0.0.1:{port}{path}"):
                yield running
                return
            time.sleep(0.1)
        raise SystemExit(f"{' '.join(command)} does not answer:\n{log.read_text()[-2000:]}")
    finally:
        with suppress(ProcessLookupError):  # it ended by itself
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()


def answers(url: str) -> bool:
    """Whether an HTTP server answers."""
    try:
        urllib.request.urlopen(url, timeout=2).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def service(cascade: Path, folder: Path, settings: str, *options: str) -> Iterator[tuple[int, int]]:
    """``corellarec serve``; yields its port and its process's number."""
    port, config = free_port(), folder / "serve.toml"
    config.write_text(
        f'store = "{folder / "store.sqlite"}"\n{settings}\n[http]\nlog_requests = false\n'
    )
    command = [sys.executable, "-m", "corellarec", "serve", str(cascade), "--config", str(config)]
    command += ["--port", str(port), *options]
    with process(command, port, "/readyz", folder / "log.txt") as running:
        yield port, running.pid


def load(port: int, facts: str, seconds: float, **options: object) -> dict[str, Any]:
    """What the load generator measured."""
    given = [
        part
        for name, value in options.items()
        if value is not None
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]
    done = subprocess.run(
        [sys.executable, HERE / "load.py", "--port", str(port), "--seconds", str(seconds), *given],
        input=facts,
        capture_output=True,
        text=True,
        check=True,
        env=ENVIRONMENT,
    )
    return json.loads(done.stdout)


def rows_by_reason(port: int) -> Counter[str]:
    """Rows answered so far, by the reason in the service's metrics."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    found = re.findall(r'^corellarec_rows_total\{reason="(\w+)".*\} ([\d.e+]+)$', text, re.M)
    return Counter({reason: int(float(rows)) for reason, rows in found})


def memory_mb(pid: int) -> float:
    """Memory that a process holds now, MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith("VmRSS")) / 1024


def show(name: str, found: dict[str, Any]) -> None:
    ms, statuses = found["ms"], found["statuses"]
    times = "no answer" if ms is None else "  ".join(f"{k} {v:7.1f}" for k, v in ms.items())
    refused = found["refused_ms"]
    late = f"  refused: max {refused['max']:.1f} ms" if refused else ""
    print(f"{name:34} {found['rows_per_s']:8,.0f} rows/s  {times} ms  {statuses}{late}", flush=True)


def measure(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    cascade = asking(Path(given.run), folder / "cascade")
    log = Cascade.load(cascade, device="cpu").log
    facts = json.dumps({"users": log.users["id"].to_list(), "items": log.items["id"].to_list()})
    figures: dict[str, Any] = {"peers": {}, "llm": {}, "deadline_ms": given.deadline_ms}
    seconds = given.seconds
    with service(cascade, folder, "", "--llm-place", "off") as (port, pid):
        load(port, facts, min(3, seconds), deadline_ms=10_000)
        full = load(port, facts, seconds, deadline_ms=10_000)
        show("LLM off, as fast as answered", full)
        capacity = full["rows_per_s"] / given.candidates
        figures["rows_per_s"] = full["rows_per_s"]
        for name, share in (("half", 0.5), ("full", 1.0), ("twice", 2.0)):
            found = load(
                port, facts, seconds, rate=share * capacity, connections=200,
                deadline_ms=given.deadline_ms,
            )  # fmt: skip
            show(f"LLM off, {name} the capacity", found)
            figures[name] = found
        before = memory_mb(pid)
        load(
            port, facts, given.memory_seconds, rate=2 * capacity, connections=200,
            deadline_ms=given.deadline_ms,
        )  # fmt: skip
        figures["memory_mb"] = {"before": before, "after": memory_mb(pid)}
        print(f"memory at twice the capacity: {before:.0f} MiB, then {memory_mb(pid):.0f} MiB")
    for name in given.llm:
        llm = Server(DELAYS_S[name])
        with service(cascade, folder, "", "--server", llm.url) as (port, _):
            if name == "killed":
                llm.end()
            for share in LLM_LOADS:
                before = rows_by_reason(port)
                found = load(
                    port, facts, seconds, rate=share * capacity, connections=200,
                    deadline_ms=given.deadline_ms,
                )  # fmt: skip
                found["rows"] = dict(rows_by_reason(port) - before)
                show(f"LLM {name}, {share:g} x capacity", found)
                print(f"    rows: {found['rows']}")
                figures["llm"][f"{name} {share:g}"] = found
    for name in PEERS:
        installed = subprocess.run([given.peer_python, "-c", f"import {name}"], check=False,
                                   capture_output=True)  # fmt: skip
        if installed.returncode:
            continue
        port = free_port()
        command = [given.peer_python, str(HERE / "plain.py"), name, str(cascade), str(port)]
        with process(command, port, "/predict", folder / f"{name}.txt"):
            load(port, facts, min(3, seconds), path="/predict")
            found = load(port, facts, seconds, path="/predict")
            show(f"{name}, as fast as answered", found)
            figures["peers"][name] = found
    return figures


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--run", default="runs/quick", help="run or cascade to serve")
    options.add_argument("--seconds", type=float, default=20.0, help="of each load")
    options.add_argument("--memory-seconds", type=float, default=600.0, help="at twice the load")
    options.add_argument("--deadline-ms", type=int, default=50)
    options.add_argument(
        "--llm", nargs="*", default=list(DELAYS_S), choices=DELAYS_S, help="what it does"
    )
    options.add_argument("--candidates", type=int, default=20, help="of each request")
    options.add_argument("--peer-python", default=sys.executable, help="has litserve and bentoml")
    given = parse(options, quick={"seconds": 4.0, "memory_seconds": 10.0})
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(given, Path(folder))
    peers = [found["rows_per_s"] for found in figures["peers"].values()]
    ratio = figures["rows_per_s"] / max(peers) if peers else None
    emit(given, figures, ratio=ratio, ratio_of="rows/s of the service / of the better peer")


if __name__ == "__main__":
    main()
