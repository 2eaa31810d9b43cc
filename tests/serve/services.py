"""A service over the tiny run: in this process, and as a program of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
from fastapi.testclient import TestClient

from corellarec.cascade.cascade import Cascade
from corellarec.cascade.lists import FEATURES, ListBlend, ListPolicy, ListValue
from corellarec.cascade.router import Verdict
from corellarec.serve.app import build_app
from corellarec.serve.lineup import InService, Lineup
from corellarec.serve.llm import LlmThread
from corellarec.serve.model import ServedModel
from corellarec.serve.service import Service

_NOTHING = (0.0,) * len(FEATURES)
LISTS = ListPolicy(8, 1.0, ListBlend(0.5, 1.0), ListValue(_NOTHING, 0.0, _NOTHING, _NOTHING),
                   None, Verdict(helps=True, routed=30, gain=0.1, bound=0.05))  # fmt: skip
"""Every list of 8 is sent."""


def asking(cascade: Cascade, threshold: float = -1e9) -> Cascade:
    """The cascade with a threshold of its own, and a router that asks and believes the LLM."""
    router = cascade.router
    rule = replace(
        router.rule, threshold=threshold, verdict=replace(router.rule.verdict, helps=True)
    )
    # The tiny LLM knows nothing, and its fitted calibration says the same of every row.
    llm = replace(router.llm, weights=(1.0,))
    cascade.router = replace(
        router, llm=llm, rules={**router.rules, router.policy: rule}, hard=False
    )
    return cascade


def send_lists(service: Service) -> Cascade:
    """Let a service whose LLM is off send whole lists, and no rows; returns its cascade."""
    of = asking(service.now.model.cascade, 1e9)
    cascade = Cascade(
        replace(of.recipe, router=of.router, lists=LISTS), of.log, of.models, of.adapter
    )
    model = ServedModel(cascade, "v2")
    service.lineup = Lineup(InService(model, LlmThread(model, service.config.llm)))
    wait_for_llm(service)
    return cascade


@contextmanager
def client_of(service: Service, keys=()):
    """A client of a service in this process."""
    app = build_app(service, keys)
    with TestClient(app, "http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


def wait_for_llm(service: Service) -> None:
    """Wait until the language model is loaded."""
    llm = service.now.llm
    for _ in range(600):
        if llm.ready or llm.error:
            break
        time.sleep(0.05)
    assert llm.ready, llm.error


@contextmanager
def program(run: Path, folder: Path, settings: str = "", *options: str, env=None):
    """``corellarec serve`` as a process; yields it, its address and its log."""
    config = folder / "serve.toml"
    store = folder / "program.sqlite"
    config.write_text(f'store = "{store}"\n' + settings)
    log = folder / "log.txt"
    command = [sys.executable, "-m", "corellarec", "serve", str(run), "--config", str(config)]
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*command, "--port", "0", *options],
            stderr=output,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        )
    try:
        yield process, address_of(process, log), log
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()


def address_of(process, log: Path) -> str:
    """Where the program says it listens, once it does."""
    seen = log.read_text().count("serving on")
    for _ in range(1200):
        lines = [line for line in log.read_text().splitlines() if "serving on" in line]
        if len(lines) > max(seen - 1, 0) and process.poll() is None and answers(lines[-1]):
            return lines[-1].split()[-1]
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def answers(line: str) -> bool:
    """Whether the service at the end of a line lives."""
    try:
        return httpx.get(line.split()[-1] + "/livez", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def lines_of(log: Path) -> list[dict]:
    """The log's lines of JSON."""
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
