"""Batch scoring with killed processes and a full disk: every row once, whatever happened before."""

import contextlib
import os
import shutil
import signal
import time

import psutil
import pytest
from calls import Call, call
from test_disk import small_disk

from batch.jobs import ROWS, all_pairs, read, routing, write_input


@pytest.fixture(scope="module")
def given(finished, tmp_path_factory):
    """A cascade that routes, its input, and the command without the output."""
    folder = tmp_path_factory.mktemp("batch")
    cascade = routing(finished[0], folder / "cascade")
    source = write_input(folder / "in", all_pairs())
    return ["score", cascade, source], ["--device", "cpu", "--shard-rows", 90]


def is_whole(output, expected):
    """Whether the output is complete, and what another process wrote at other times."""
    left = [p.name for p in output.iterdir() if p.name == "_work" or p.name.endswith("unfinished")]
    return not left and (output / "_SUCCESS").exists() and read(output).equals(expected)


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_jobs(attack, tmp_path, scratch, given, workers):
    if not attack.hard:
        pytest.skip("half a minute: make test-hard; actors are killed in tests/batch")
    (head, tail), out = given, tmp_path / "out"
    command = [*head, out, *tail, "--workers", workers]
    whole = call(command, scratch)
    assert whole.kind == "done", whole.text
    expected = read(out)
    assert expected.height == ROWS
    for number in range(attack.times(1, 20)):
        shutil.rmtree(out)
        for _ in range(1 + number % 3):
            running = Call(command, scratch)
            time.sleep(attack.random.uniform(0.2, whole.seconds))
            if left := kill(running.process.pid, attack.random if number % 2 else None):
                attack.note("worker without its job", left, bad=True)
            stopped = running.wait()
            if number % 2 and stopped.kind not in ("refused", "done", "signal 9"):
                attack.note(stopped.kind, stopped.text[-500:], bad=True)
        done = call(command, scratch)
        same = done.kind == "done" and is_whole(out, expected)
        attack.note("then whole" if same else done.kind, done.text[-500:], bad=not same)


def kill(pid, chance):
    """Kill a command, or, with ``chance``, one of its workers if there are any.

    Returns those of the command's workers that outlive it.
    """
    try:
        children = psutil.Process(pid).children()
    except psutil.NoSuchProcess:
        return []
    workers = [one for one in children if "spawn_main" in " ".join(command_of(one))]
    victim = chance.choice(workers).pid if chance and workers else pid
    os.kill(victim, signal.SIGKILL)
    _, alive = psutil.wait_procs(workers if victim == pid else [], timeout=20)
    return [one for one in alive if command_of(one)]


def test_workers_without_memory(attack, tmp_path, scratch, given):
    if not attack.hard:
        pytest.skip("half a minute: make test-hard; the message is tested in tests/batch")
    (head, tail), out = given, tmp_path / "out"
    command = [*head, out, *tail, "--workers", 2]
    whole = call(command, scratch)
    assert whole.kind == "done", whole.text
    expected = read(out)
    for _ in range(attack.times(1, 20)):
        shutil.rmtree(out)
        running = Call(command, scratch)
        time.sleep(attack.random.uniform(0.2, whole.seconds))
        limit_memory(running.process.pid, attack.random)
        stopped = running.wait()
        # A worker that has no memory to import what it needs prints that before its job says why,
        # or before another one does its work.
        kind = "done" if stopped.code == 0 else stopped.kind
        if "error: a process was killed or ran" in stopped.last_line:
            kind = "refused"
        attack.note(kind, stopped.text[-800:], bad=kind not in ("refused", "done"))
        done = call(command, scratch)
        same = done.kind == "done" and is_whole(out, expected)
        attack.note("then whole" if same else done.kind, done.text[-500:], bad=not same)


def limit_memory(pid, chance):
    """Leave one of a command's workers little memory beside what it has."""
    workers = [one for one in children_of(pid) if "spawn_main" in " ".join(command_of(one))]
    if workers:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim = chance.choice(workers)
            limit = victim.memory_info().vms + chance.choice([0, 1, 8, 32]) * 2**20
            victim.rlimit(psutil.RLIMIT_AS, (limit, limit))


def test_killed_ray_jobs(attack, tmp_path, scratch, given):
    """The node's own process, an actor or the command is killed; either engine then goes on."""
    if not attack.hard:
        pytest.skip("minutes: make test-hard; actors are killed in tests/batch")
    pytest.importorskip("ray")
    (head, tail), out = given, tmp_path / "out"
    assert call([*head, out, *tail], scratch).kind == "done"
    expected = read(out)
    command = [*head, out, *tail, "--engine", "ray", "--workers", 2]
    for number in range(attack.times(3, 20)):
        shutil.rmtree(out)
        running = Call(command, scratch, memory=1 << 46)  # Ray maps far more than it uses
        what = ("raylet", "ray::_Worker", "command")[number % 3]
        of_ray = wait_for(running, "raylet" if what == "command" else what)
        time.sleep(attack.random.uniform(0, 2 if what == "ray::_Worker" else 15))
        if what == "command":
            running.kill()
        elif of_ray:
            with contextlib.suppress(psutil.NoSuchProcess):
                of_ray[0].kill()
        stopped = running.wait(600)
        # Where its node has died, Ray itself ends the command: exit 1, with its own message.
        ends = {"raylet": ("done", "refused", "exit 1"), "ray::_Worker": ("done",)}
        ends = ends.get(what, ("done", "signal 9"))
        kind = f"{what} {'killed' if of_ray else 'not found'}: {stopped.kind}"
        attack.note(kind, stopped.text[-800:], bad=not of_ray or stopped.kind not in ends)
        _, alive = psutil.wait_procs(of_ray, timeout=60)
        if alive:
            attack.note("Ray without its job", [command_of(one) for one in alive], bad=True)
        more = ["--engine", "ray"] if number % 5 == 4 else []
        done = call([*head, out, *tail, *more], scratch, memory=1 << 46, seconds=600)
        same = done.kind == "done" and is_whole(out, expected)
        attack.note("then whole" if same else done.kind, done.text[-500:], bad=not same)


def wait_for(running, name):
    """A command's processes of a name, when there are any; none if the command ends before."""
    deadline = time.monotonic() + 100
    while not (found := named(running.process.pid, name)) and time.monotonic() < deadline:
        if not running.process.is_alive():
            break
        time.sleep(0.02)
    return found


def named(pid, name):
    """Processes below a command that run a program, or call themselves so."""
    found = [(one, command_of(one)) for one in children_of(pid)]
    return [one for one, words in found if words and words[0].split("/")[-1].startswith(name)]


def children_of(pid):
    """Processes below another."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def command_of(process):
    """What a process runs; nothing if it has ended."""
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


def test_a_job_on_a_full_disk(attack, tmp_path, scratch, given):
    (head, tail), disk, kept = given, tmp_path / "disk", tmp_path / "kept"
    assert call([*head, tmp_path / "whole", *tail], scratch).kind == "done"
    expected = read(tmp_path / "whole")
    sizes = (4, 16, 32, 64, 96, 128, 160, 192)
    for size in sizes if attack.hard else (96,):
        shutil.rmtree(kept, ignore_errors=True)
        with small_disk(disk, size) as file_size:
            full = call([*head, disk / "out", *tail], scratch, file_size=file_size)
            attack.note(full.kind, f"{size} KiB: {full.text}", bad=full.kind != "refused")
            if (disk / "out").exists():
                shutil.copytree(disk / "out", kept)
            shutil.rmtree(disk / "out", ignore_errors=True)
        done = call([*head, kept, *tail], scratch)
        same = done.kind == "done" and is_whole(kept, expected)
        attack.note("then whole" if same else done.kind, done.text, bad=not same)
