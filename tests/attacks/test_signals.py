"""SIGINT and SIGTERM end a command with its exit code and no traceback, and it resumes."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from calls import ENVIRONMENT, Call, call, figures, settings


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_runs(attack, tmp_path, scratch, finished, tiny_settings, number):
    expected, out = figures(finished[0]), tmp_path / "run"
    command = ["run", *settings(tiny_settings), "--out", out]
    whole = call(command, scratch).seconds
    for _ in range(attack.times(1, 20)):
        shutil.rmtree(out)
        running = Call(command, scratch)
        time.sleep(attack.random.uniform(0.3, whole))
        running.signal(number)
        stopped = running.wait()
        fine = stopped.code in (128 + number, 0) and "Traceback" not in stopped.text
        attack.note(f"exit {stopped.code}", stopped.text[-500:], bad=not fine)
        again = call([*command, "--resume"], scratch)
        same = again.kind == "done" and figures(out) == expected
        attack.note("then the same result" if same else again.kind, again.text, bad=not same)


def test_stopped_while_importing(attack, tmp_path, finished):
    """The real program, from when it handles signals on: its imports take most of its start."""
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("user,item\n1,1\n")
    command = [sys.executable, "-m", "corellarec", "predict", finished[0], pairs, "-o"]
    for _ in range(attack.times(1, 30)):
        with subprocess.Popen(
            [*map(str, command), str(tmp_path / "scored.csv")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=ENVIRONMENT,
        ) as running:
            while not handles(running.pid, signal.SIGTERM):
                time.sleep(0.005)
            time.sleep(attack.random.uniform(0, 4.0))
            running.send_signal(signal.SIGINT)
            text, _ = running.communicate()
        fine = running.returncode in (130, 0) and "Traceback" not in text
        attack.note(f"exit {running.returncode}", text[-800:], bad=not fine)


def handles(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal of its own."""
    line = next(
        line
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("SigCgt")
    )
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)
