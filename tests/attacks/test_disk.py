"""A full disk ends a command in one line, leaves no partial output, and the work goes on later."""

import os
import shutil
import subprocess
from contextlib import contextmanager

from calls import call, figures, settings
from test_kills import fast_checkpoints

KIB = 1024


@contextmanager
def small_disk(folder, size):
    """A file system of so many KiB where one may be mounted; else a limit for each file."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, check=False).returncode == 0
    try:
        yield None if mounted else size * KIB
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def test_run_on_a_full_disk(attack, tmp_path, scratch, finished, tiny_settings):
    expected, disk = figures(finished[0]), tmp_path / "disk"
    sizes = (8, 24, 64, 128, 200, 320, 480, 800, 1200)
    for size in sizes if attack.hard else (200,):
        kept = tmp_path / "kept"
        shutil.rmtree(kept, ignore_errors=True)
        with small_disk(disk, size) as file_size:
            command = ["run", *settings(tiny_settings), "--out", disk / "run"]
            full = call(command, scratch, patch=fast_checkpoints, file_size=file_size)
            attack.note(full.kind, f"{size} KiB: {full.text}", bad=full.kind != "refused")
            if (disk / "run").exists():
                shutil.copytree(disk / "run", kept)
            shutil.rmtree(disk / "run", ignore_errors=True)
        done = call(["run", *settings(tiny_settings), "--out", kept, "--resume"], scratch)
        same = done.kind == "done" and figures(kept) == expected
        attack.note("then the same result" if same else done.kind, done.text, bad=not same)


def test_outputs_on_a_full_disk(attack, tmp_path, scratch, finished, tiny_settings):
    base, _ = finished
    pairs, disk = tmp_path / "pairs.csv", tmp_path / "disk"
    lines = [f"{1 + i % 40},{1 + i % 49}" for i in range(3000)]
    pairs.write_text("user,item\n" + "\n".join(lines) + "\n")
    commands = {
        "scored.csv": ["predict", base, pairs, "-o", disk / "scored.csv"],
        "scored.parquet": ["predict", base, pairs, "-o", disk / "scored.parquet"],
        "log.csv": ["data", "export", *settings(tiny_settings), "-o", disk / "log.csv"],
        "adapter": ["adapter", base, disk / "adapter"],
    }
    whole = {}
    for name, command in commands.items():
        with small_disk(disk, 10_000) as file_size:
            assert call(command, scratch, file_size=file_size).kind == "done"
            whole[name] = size_of(disk / name)
    for size in (4, 8, 16) if attack.hard else (4,):
        for name, command in commands.items():
            with small_disk(disk, size) as file_size:
                full = call(command, scratch, file_size=file_size)
                there = size_of(disk / name)
                partial = there != (whole[name] if full.kind == "done" else 0)
                bad = partial or full.kind not in ("refused", "done")
                attack.note("partial output" if partial else full.kind, full.text, bad=bad)


def size_of(path):
    """Bytes of a file, or of a directory's files; 0 where there is none."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
