import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from corellarec.base.errors import LockedError, one_line
from corellarec.base.lock import locked

HOLD = """
import sys, time
from pathlib import Path
from corellarec.base.lock import locked
with locked(Path(sys.argv[2]), "it"):
    print("held", flush=True)
    time.sleep(float(sys.argv[3]))
"""


@pytest.fixture
def hold(tmp_path):
    """Starts processes that hold the lock, and ends them."""
    begun = []

    def start(path, seconds=60.0):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, "work", str(path), str(seconds)], stdout=subprocess.PIPE
        )
        begun.append(process)
        assert process.stdout.readline() == b"held\n"
        return process

    yield start
    for process in begun:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_lock_that_is_held_names_its_holder(tmp_path, hold):
    path = tmp_path / "deep" / ".lock"
    holder = hold(path)

    with (
        pytest.raises(LockedError, match=rf"^runs/x is in use by process {holder.pid} \(-c work\)"),
        locked(path, "runs/x"),
    ):
        raise AssertionError("entered")


def test_the_kernel_releases_the_lock_of_a_killed_process(tmp_path, hold):
    path = tmp_path / ".lock"
    holder = hold(path)

    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()

    with locked(path, "it"):
        assert path.read_text().startswith(f"{os.getpid()} ")


@pytest.mark.parametrize("wait_s", [30.0, None])
def test_waiting_says_for_whom_and_ends_when_the_holder_ends(tmp_path, hold, wait_s, capsys):
    path = tmp_path / ".lock"
    holder = hold(path, 0.5)

    with locked(path, "it", wait_s):
        pass

    assert capsys.readouterr().err == f"it is in use by process {holder.pid} (-c work): waiting\n"


def test_waiting_ends_in_time(tmp_path, hold):
    path = tmp_path / ".lock"
    hold(path)
    start = time.monotonic()

    with pytest.raises(LockedError), locked(path, "it", 0.3):
        pass

    assert 0.3 <= time.monotonic() - start < 10


def test_threads_of_one_process_exclude_each_other(tmp_path):
    path, inside, most = tmp_path / ".lock", [], []

    def work():
        with locked(path, "it", None):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert most == [1, 1, 1, 1]


def test_an_error_in_the_body_releases_the_lock(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path / ".lock", "it"):
        raise ZeroDivisionError

    with locked(tmp_path / ".lock", "it"):
        pass


def test_a_planted_link_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / ".lock").symlink_to(victim)

    with pytest.raises(OSError, match="lock"), locked(tmp_path / ".lock", "it"):
        pass

    assert victim.read_text() == "precious"


def test_what_the_file_says_is_printed_as_one_line(tmp_path, hold):
    path = tmp_path / ".lock"
    hold(path)
    path.write_bytes(b"12 \x1b[31mred\xff\n" * 100)

    with pytest.raises(LockedError) as found, locked(path, "it"):
        pass

    assert str(found.value).isprintable()


def test_words_from_elsewhere_become_one_line():
    assert one_line("  a\r\n\x1b[31mb\x00\u2028c ") == "a [31mb c"
    assert one_line("x" * 400) == "x" * 297 + "..."


def test_where_there_is_no_flock_nothing_is_locked(tmp_path):
    code = (
        "import sys; sys.modules['fcntl'] = None\n"
        "from pathlib import Path; from corellarec.base.lock import locked\n"
        "with locked(Path('.lock'), 'it'), locked(Path('.lock'), 'it'): print('held')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout == "held\n"
