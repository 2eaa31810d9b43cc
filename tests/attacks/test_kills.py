"""Runs that are killed at random moments resume to the same result."""

import hashlib
import json
import shutil
import time
from pathlib import Path

from calls import Call, call, settings

TIMES = ("seconds", "_ms", ".ms")
UNEQUAL = ("manifest.json", "metrics.json", "report.html", ".lock")  # of clocks and processes


def figures(directory: Path) -> dict[str, str]:
    """A run's figures by name, without its own name and times of the clock."""
    found = {}

    def collect(tree: object, name: str) -> None:
        if isinstance(tree, dict | list):
            for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
                collect(value, f"{name}.{key}")
        elif name not in (".name", ".sha256") and not any(part in name for part in TIMES):
            found[name] = repr(tree)

    collect(json.loads((directory / "metrics.json").read_text()), "")
    return found


def digests(directory: Path) -> dict[str, str]:
    """SHA-256 of each file that two runs of the same settings share."""
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name not in UNEQUAL
    }


def fast_checkpoints():
    """A checkpoint after every step, and scores written 40 rows at a time."""
    import corellarec.run.scores
    import corellarec.train.loop

    corellarec.train.loop.CHECKPOINT_SECONDS = 0.0
    corellarec.run.scores.PIECE = 40


def test_killed_runs(attack, tmp_path, scratch, tiny_settings):
    out = tmp_path / "run"
    more = ["distill.rows=300", "stage2.evaluations=3", "stage3.evaluations=2"]
    command = ["run", *settings(tiny_settings, *more), "--out", out]
    whole = call(command, scratch, patch=fast_checkpoints)
    assert whole.kind == "done", whole.text
    expected, files = figures(out), digests(out)
    for number in range(attack.times(2, 25)):
        shutil.rmtree(out)
        for again in range(1 if number % 3 else 3):  # every third one is killed three times
            running = Call(
                [*command, "--resume"] if again else command, scratch, patch=fast_checkpoints
            )
            time.sleep(attack.random.uniform(0.2, whole.seconds))
            running.kill()
            running.wait()
        done = call([*command, "--resume"], scratch, patch=fast_checkpoints)
        if done.kind != "done":
            attack.note(done.kind, done.text[-500:], bad=True)
        elif figures(out) != expected or digests(out) != files:
            odd = {key for key, value in figures(out).items() if expected.get(key) != value}
            odd |= {key for key, value in digests(out).items() if files.get(key) != value}
            attack.note("other result", sorted(odd)[:5], bad=True)
        else:
            attack.note("same result")
