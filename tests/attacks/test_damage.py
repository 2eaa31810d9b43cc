"""Files of a run that are damaged, missing or another run's are noticed, or do no harm."""

import shutil
from pathlib import Path

import pytest
from calls import call, figures, settings

DAMAGE = ("flip", "cut", "empty", "missing")
SEALED = ("config.toml", "metrics.json", "data/manifest.json", "stage1/manifest.json",
          "stage3/manifest.json", "cascade/manifest.json", "scores/test/manifest.json")  # fmt: skip


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.csv"
    lines = [f"{1 + i % 40},{1 + i % 49}" for i in range(50)]
    path.write_text("user,item\n" + "\n".join(lines) + "\n")
    return path


class Victim:
    """A copy of a run, and what commands say of it."""

    def __init__(self, base: Path, folder: Path, pairs: Path, output: Path) -> None:
        self.base, self.run, self.pairs, self.output = base, folder / "run", pairs, output
        self.scored = folder / "scored.csv"
        self.restore()
        assert call(self.command("predict"), output).kind == "done"
        self.good, self.figures = self.scored.read_text(), figures(base)

    def restore(self) -> None:
        shutil.rmtree(self.run, ignore_errors=True)
        shutil.copytree(self.base, self.run)

    def command(self, name: str) -> list[object]:
        if name == "predict":
            return [name, self.run, self.pairs, "-o", self.scored]
        return [name, self.run]

    def outcome(self, name: str) -> str:
        """``refused``, ``harmless``, or what must not be."""
        found = call(self.command(name), self.output)
        if found.kind != "done":
            return found.kind
        if name == "predict":
            same = self.scored.read_text() == self.good
        elif name == "evaluate":
            same = figures(self.run) == self.figures
        else:
            return "accepted"
        return "harmless" if same else "other result"


@pytest.fixture
def victim(finished, tmp_path, pairs, scratch):
    return Victim(finished[0], tmp_path, pairs, scratch)


def commands(name: str) -> tuple[str, ...]:
    """What reads a file of a run."""
    if name.startswith("cascade"):
        return "predict", "evaluate"
    return {
        "metrics.json": ("report", "info", "evaluate"),
        "config.toml": ("info", "evaluate"),
        "report.html": ("evaluate",),
    }.get(name, ("evaluate",))


def damage(path: Path, how: str, place: float, bit: int) -> None:
    content = bytearray(path.read_bytes())
    if how == "flip":
        content[int(place * len(content))] ^= 1 << bit
        path.write_bytes(content)
    elif how == "missing":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2 if how == "cut" else 0])


def test_damaged_files(attack, victim):
    files = sorted(
        path.relative_to(victim.base).as_posix()
        for path in victim.base.rglob("*")
        if path.is_file() and path.name != ".lock"
    )
    tries = [(f, how, c) for f in files for how in DAMAGE for c in commands(f)]
    for name, how, command in tries if attack.hard else attack.random.sample(tries, 5):
        victim.restore()
        damage(victim.run / name, how, attack.random.random(), attack.random.randrange(8))
        kind = victim.outcome(command)
        missing = how == "missing" and command == "info"  # a run that was not evaluated yet
        bad = kind not in ("refused", "harmless") and not missing
        attack.note(kind, f"{name} {how}: {command}", bad=bad)


def test_flips_in_texts(attack, victim):
    """One flipped bit in the texts that hold a run together."""
    for _ in range(attack.times(3, 130)):
        name = attack.random.choice(SEALED)
        victim.restore()
        damage(victim.run / name, "flip", attack.random.random(), attack.random.randrange(8))
        kind = victim.outcome(commands(name)[0])
        attack.note(kind, name, bad=kind not in ("refused", "harmless"))


def test_swapped_with_another_run(attack, victim, tmp_path, tiny_settings, scratch):
    other = tmp_path / "other"
    more = settings(tiny_settings, "seed=1", "stage1.epochs=2", "data.positive_rating=3")
    assert call(["run", *more, "--out", other], scratch).kind == "done"
    names = ["data", "stage1", "stage2", "stage3", "cascade", "scores/test", "scores/validation",
             "stage1/model.safetensors", "cascade/crm.safetensors", "cascade/adapter",
             "cascade/cascade.json", "config.toml", "metrics.json"]  # fmt: skip
    for name in names if attack.hard else ["stage1", "cascade", "metrics.json"]:
        for command in ("predict", "evaluate", "report"):
            victim.restore()
            shutil.rmtree(victim.run / name, ignore_errors=True)
            (victim.run / name).unlink(missing_ok=True)
            copy = shutil.copytree if (other / name).is_dir() else shutil.copy
            copy(other / name, victim.run / name)
            kind = victim.outcome(command)
            shows_own = command == "report" and name not in ("config.toml", "metrics.json")
            bad = kind not in ("refused", "harmless") and not shows_own
            attack.note(kind, f"{name}: {command}", bad=bad)
