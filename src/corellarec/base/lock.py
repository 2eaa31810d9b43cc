"""One process at a time: a lock on a file that ends with the process that holds it."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from corellarec.base.errors import LockedError, one_line

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None

POLL_S = 0.1

console = Console(stderr=True)


@contextmanager
def locked(path: Path, what: str, wait_s: float | None = 0.0) -> Iterator[None]:
    """Hold the lock of ``path`` while the body runs.

    The kernel releases it when the process ends, however it ends; the file stays, and so does what
    it says about its last holder. Two threads of one process exclude each other, too, and a child
    made by ``fork`` holds its parent's lock.

    Args:
        path: File of the lock, made if absent; a link is not followed.
        what: What the lock protects, for messages.
        wait_s: Seconds to wait for another holder, which a line on stderr names; None waits as
            long as it takes.

    Raises:
        LockedError: If another process holds the lock all that time; the message says which.
        OSError: If the file cannot be opened for writing.
    """
    if fcntl is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        deadline = None if wait_s is None else time.monotonic() + wait_s
        said = wait_s == 0
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if deadline is not None and time.monotonic() >= deadline:
                    raise LockedError(
                        f"{what} is in use by {_holder(lock)}: wait until it has ended, or end it"
                    ) from None
            if not said:
                message = f"{what} is in use by {_holder(lock)}: waiting"
                console.print(message, markup=False, highlight=False, soft_wrap=True)
                said = True
            time.sleep(POLL_S)
        os.ftruncate(lock, 0)
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:2]])
        os.pwrite(lock, f"{os.getpid()} {command}\n".encode(), 0)
        yield
    finally:
        os.close(lock)


def _holder(lock: int) -> str:
    """The process that the lock's file names."""
    words = one_line(os.pread(lock, 200, 0).decode("utf-8", "replace"))
    pid, _, command = words.partition(" ")
    return f"process {pid} ({command})" if pid.isdecimal() else "another process"
