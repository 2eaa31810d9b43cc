"""Damaged inputs are refused in one line, soon and in little memory."""

import resource
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mutations import mutate
from targets import Target, beside_the_log, layouts, of_a_cascade, own_tables, settings

from corellarec.base.errors import CorellarecError

CORPUS = Path(__file__).with_name("corpus")
SECONDS, GIB = 20, 1 << 30


class Hang(BaseException):
    """A try did not end in time."""


@pytest.fixture(autouse=True)
def limits() -> Iterator[None]:
    """An alarm that raises, and no more memory than a machine has."""

    def raise_hang(*_: object) -> None:
        raise Hang

    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, raise_hang)
    resource.setrlimit(resource.RLIMIT_AS, (12 * GIB, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
    signal.signal(signal.SIGALRM, handler)


def status(name: str) -> int:
    """A figure of this process in bytes: ``VmRSS``, or ``VmHWM``, the most since it was reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def outcome(read: Callable[[], object]) -> tuple[str, str]:
    """What became of reading an input, and what was said: ``read``, ``refused``, or a fault."""
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    start = status("VmRSS")
    signal.alarm(SECONDS)
    try:
        read()
        kind, said = "read", ""
    except (CorellarecError, OSError) as error:
        kind, said = "refused", str(error)
        if not said.strip():
            kind = "empty error"
        elif "\n" in said:
            kind = "error of several lines"
    except Hang:
        kind, said = "hang", traceback.format_exc()
    except BaseException as error:  # a panic of polars is none of Exception
        if isinstance(error, KeyboardInterrupt):
            raise
        kind, said = "traceback", traceback.format_exc()
    finally:
        signal.alarm(0)
    if status("VmHWM") - start > 2 * GIB:
        kind = "over 2 GiB"
    return kind, said


def lay(directory: Path, files: dict[str, bytes]) -> None:
    """Write the files of an input into an empty directory."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for name, content in files.items():
        (directory / name).write_bytes(content)


def fuzz(attack: Any, targets: dict[str, Target], directory: Path, quick: int, hard: int):
    """Change one file of each target at random, many times; the corpus of past faults first."""
    for name, target in targets.items():
        whole = {file: target.pack(content) for file, content in target.files.items()}
        lay(directory, whole)
        assert outcome(lambda t=target: t.read(directory))[0] == "read", name
        damaged = [
            (path.name.partition("~")[0], path.read_bytes())
            for path in sorted((CORPUS / name).glob("*"))
        ]
        for number in range(attack.times(quick, hard)):
            file = attack.random.choice(sorted(target.files))
            content = target.files[file]
            if number % 2 and target.pack is not bytes:  # damaged outside the packing
                damaged.append((file, mutate(attack.random, "", target.pack(content))))
            else:
                damaged.append((file, target.pack(mutate(attack.random, file, content))))
        for file, content in damaged:
            lay(directory, {**whole, file: content})
            kind, said = outcome(lambda t=target: t.read(directory))
            bad = kind not in ("read", "refused")
            if bad:  # kept as the corpus holds them
                kept = directory.with_name("faults") / name
                kept.mkdir(parents=True, exist_ok=True)
                (kept / f"{file}~{attack.seed}-{len(attack.failures)}").write_bytes(content)
            attack.note(kind, f"{name}, {file}: {said[-1500:]}", bad=bad)


def test_fuzzed_settings(attack, tmp_path):
    fuzz(attack, settings(), tmp_path / "x", 8, 350)


def test_fuzzed_tables(attack, tmp_path):
    fuzz(attack, own_tables(), tmp_path / "x", 4, 250)


def test_fuzzed_layouts(attack, movielens, tmp_path):
    fuzz(attack, layouts(movielens), tmp_path / "x", 6, 250)


def test_fuzzed_files_beside_the_log(attack, movielens, tiny_llm, prepared, tmp_path):
    fuzz(attack, beside_the_log(movielens, tiny_llm, prepared), tmp_path / "x", 5, 200)


def test_fuzzed_tables_for_a_cascade(attack, finished, tmp_path):
    fuzz(attack, of_a_cascade(finished[0]), tmp_path / "x", 5, 200)
