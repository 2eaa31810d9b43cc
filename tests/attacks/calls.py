"""The command line in forked processes, which cost no import, and what became of each call."""

import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

GIB = 1 << 30
TIMES = ("seconds", "_ms", ".ms")  # parts of names of figures that a clock decides
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1", "HF_HUB_OFFLINE": "1"}

# The fork server takes its path from the environment, not from this process.
_paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
os.environ["PYTHONPATH"] = os.pathsep.join(_paths)
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["preloaded"])


@dataclass(frozen=True)
class Outcome:
    """How a call ended.

    Args:
        code: Its exit code, negative for a signal; None if it did not end in time.
        text: What it printed, stdout and stderr together.
        seconds: How long it took.
        memory: Its largest resident set in bytes; 0 where a signal ended it.
    """

    code: int | None
    text: str
    seconds: float
    memory: int

    @property
    def kind(self) -> str:
        """``done``, ``refused`` (one line, exit code 2), or what must not be."""
        if self.code is None:
            return "hang"
        if "Traceback (most recent call last)" in self.text:
            return "traceback"
        if self.memory > 2 * GIB:
            return "over 2 GiB"
        if self.code == 0:
            return "done"
        if self.code == 2 and ("error: " in self.text or "Error" in self.text):
            return "refused"
        return f"signal {-self.code}" if self.code < 0 else f"exit {self.code}"

    @property
    def last_line(self) -> str:
        """The last line printed, where an error is."""
        lines = [line for line in self.text.splitlines() if line.strip()]
        return lines[-1] if lines else ""


@dataclass
class Call:
    """A command line that runs.

    Args:
        arguments: What follows ``corellarec``.
        output: File for what it prints.
        patch: Called in the process before the command; it must be importable.
        directory: The working directory.
        environment: Variables beside ``ENVIRONMENT``.
        memory: Limit of the address space in bytes.
        file_size: Limit of a file's size in bytes: a disk that is full.
    """

    arguments: Sequence[object]
    output: Path
    patch: Callable[[], object] | None = None
    directory: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    memory: int = 12 * GIB
    file_size: int | None = None

    def __post_init__(self) -> None:
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self.begun = time.monotonic()
        self.process = _forks.Process(target=_main, args=(self._plain(),))
        self.process.start()

    def _plain(self) -> dict[str, object]:
        return {
            "arguments": [str(argument) for argument in self.arguments],
            "output": str(self.output.resolve()),
            "patch": self.patch,
            "directory": str(self.directory or Path.cwd()),
            "environment": {**ENVIRONMENT, **self.environment},
            "memory": self.memory,
            "file_size": self.file_size,
        }

    def signal(self, number: int) -> None:
        """Send a signal, unless the call has ended."""
        if self.process.pid and self.process.is_alive():
            os.kill(self.process.pid, number)

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        self.signal(signal.SIGKILL)

    def wait(self, seconds: float = 120.0) -> Outcome:
        """How it ended; killed if it does not end in time."""
        self.process.join(seconds)
        took = time.monotonic() - self.begun
        code = self.process.exitcode
        if code is None:
            self.kill()
            self.process.join()
        memory = self.output.with_suffix(".memory")
        return Outcome(
            code,
            self.output.read_text("utf-8", "replace") if self.output.exists() else "",
            took,
            int(memory.read_text() or 0) if memory.exists() else 0,
        )


def call(
    arguments: Sequence[object],
    output: Path,
    *,
    seconds: float = 120.0,
    patch: Callable[[], object] | None = None,
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
    memory: int = 12 * GIB,
    file_size: int | None = None,
) -> Outcome:
    """Run a command line to its end; arguments as for :class:`Call`."""
    begun = Call(arguments, output, patch, directory, environment or {}, memory, file_size)
    return begun.wait(seconds)


def _main(call: dict) -> None:
    """The forked process."""
    to = os.open(call["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(to, 1)
    os.dup2(to, 2)
    sys.stdout, sys.stderr = open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
    os.environ.update(call["environment"])
    os.chdir(call["directory"])
    resource.setrlimit(resource.RLIMIT_AS, (call["memory"], call["memory"]))
    if call["file_size"] is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write fails, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (call["file_size"], call["file_size"]))
    if call["patch"]:
        call["patch"]()
    from corellarec.cli.entry import main

    sys.argv = ["corellarec", *call["arguments"]]
    try:
        main()
    finally:
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if call["file_size"] is None:
            Path(call["output"]).with_suffix(".memory").write_text(str(peak))
        sys.stdout.flush()


def settings(given: Sequence[str], *more: str) -> list[str]:
    """Settings as options of the command line."""
    return [part for setting in (*given, *more) for part in ("--set", setting)]


def figures(directory: Path) -> dict[str, str]:
    """A run's figures by name, without its own name, its checksum and times of the clock."""
    found = {}

    def collect(tree: object, name: str) -> None:
        if isinstance(tree, dict | list):
            for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
                collect(value, f"{name}.{key}")
        elif name not in (".name", ".sha256") and not any(part in name for part in TIMES):
            found[name] = repr(tree)

    collect(json.loads((directory / "metrics.json").read_text()), "")
    return found
