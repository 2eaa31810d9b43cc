"""MovieLens, fetched once into the cache."""

from pathlib import Path

from corellarec.base.cache import (
    cache_dir,
    check,
    console,
    download,
    download_wheel,
    wheel_path,
)
from corellarec.base.errors import FetchError, UnreachableError

GROUPLENS = "https://files.grouplens.org/datasets/movielens/{}.zip"
MOVIELENS_SHA256 = {
    "ml-100k": "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
    "ml-1m": "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
}
RECBOLE = ("recbole==1.2.1", "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407")


def fetch_movielens(name: str) -> Path:
    """The cached zip of MovieLens ``ml-100k`` or ``ml-1m``, fetched from GroupLens if absent.

    Where GroupLens is out of reach, the copy of 100K in atomic files inside the PyPI wheel
    ``recbole`` serves; both hold the same 100,000 ratings.

    Raises:
        FetchError: If it cannot be had, or what came has another checksum.
    """
    official = cache_dir() / f"{name}.zip"
    if official.exists():
        check(official, MOVIELENS_SHA256[name])
        return official
    if name == "ml-100k" and wheel_path(RECBOLE[0]).exists():
        return download_wheel(*RECBOLE)
    try:
        download(GROUPLENS.format(name), official, MOVIELENS_SHA256[name])
    except UnreachableError as error:
        if name != "ml-100k":
            raise FetchError(
                f"GroupLens is out of reach ({error}): try again later, or give the path of a "
                f"{name}.zip that you have with --set data.path=PATH"
            ) from error
        console.print(
            f"GroupLens is out of reach ({error}); taking the copy in the wheel recbole",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        return download_wheel(*RECBOLE)
    return official
