"""Commands that are killed at random moments leave nothing that a later one trips over."""

import hashlib
import shutil
import time
from pathlib import Path

from calls import Call, call, figures, settings

UNEQUAL = ("manifest.json", "metrics.json", "report.html", ".lock")  # of clocks and processes


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
    for number in range(attack.times(1, 25)):
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


def test_killed_commands(attack, tmp_path, scratch, finished, tiny_settings):
    """Each output is absent or whole, and the same command then ends as if nothing had been."""
    base, _ = finished
    pairs = tmp_path / "pairs.csv"
    lines = [f"{1 + i % 40},{1 + i % 49}" for i in range(3000)]
    pairs.write_text("user,item\n" + "\n".join(lines) + "\n")
    run, out = tmp_path / "run", tmp_path / "out"
    commands = {
        "prepare": (["prepare", *settings(tiny_settings), "--out", out], "data/manifest.json"),
        "evaluate": (["evaluate", run], "metrics.json"),
        "predict": (["predict", base, pairs, "-o", out / "scored.csv"], "scored.csv"),
        "adapter": (["adapter", run, out / "adapter"], "adapter/manifest.json"),
        "export": (["data", "export", *settings(tiny_settings), "-o", out / "e.csv"], "e.csv"),
    }
    expected: dict[str, tuple[object, float]] = {}
    for number in range(attack.times(1, 15)):
        for name, (command, made) in commands.items():
            shutil.rmtree(out, ignore_errors=True)
            shutil.rmtree(run, ignore_errors=True)
            shutil.copytree(base, run)
            if name == "evaluate":
                (run / "metrics.json").unlink()
                shutil.rmtree(run / "scores")
                shutil.rmtree(run / "cascade")
            path = (run if name == "evaluate" else out) / made
            if number == 0:
                began = time.monotonic()
                assert call(command, scratch).kind == "done"
                expected[name] = content(path), time.monotonic() - began
                continue
            running = Call(command, scratch)
            time.sleep(attack.random.uniform(0.05, expected[name][1]))
            running.kill()
            running.wait()
            was_there = path.exists()
            if was_there and content(path) != expected[name][0]:
                attack.note("partial output", name, bad=True)
                continue
            again = call(command, scratch)
            same = again.kind == "done" and content(path) == expected[name][0]
            attack.note("then whole" if same else again.kind, f"{name} {again.text}", bad=not same)


def content(path: Path) -> object:
    """What a file says that no clock decides."""
    if path.name == "metrics.json":
        return figures(path.parent)
    if path.name == "manifest.json":
        return digests(path.parent)
    return path.read_text()
