"""Which log the settings name, and the layout it is in."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from corellarec.base.errors import ConfigError, DataError
from corellarec.config import DataConfig
from corellarec.data.fetch import fetch_movielens
from corellarec.data.raw import Folder, RawLog
from corellarec.data.sources.amazon import is_amazon, read_amazon
from corellarec.data.sources.atomic import is_atomic, read_atomic
from corellarec.data.sources.movielens import is_movielens, read_movielens
from corellarec.data.sources.scan import table_files
from corellarec.data.sources.tables import read_tables

Layout = Literal["movielens", "amazon", "recbole"]
READERS: dict[Layout, tuple[Callable[[Folder], bool], Callable[[Folder], RawLog]]] = {
    "recbole": (is_atomic, read_atomic),
    "movielens": (is_movielens, read_movielens),
    "amazon": (is_amazon, read_amazon),
}


def read_raw(config: DataConfig) -> RawLog:
    """The log that the settings name, in whichever layout it is.

    Raises:
        ConfigError: If they name none, or a section cannot be used.
        DataError: If the layout is not known, or a file missing or malformed.
        FetchError: If the default data set cannot be obtained.
    """
    if config.interactions:
        return read_tables(config)
    folder, reader = _recognised(config)
    raw = reader(folder)
    if raw.unrated and not config.is_implicit:
        raise DataError(f"{raw.unrated}; if every row is what a user did: --set data.implicit=true")
    return raw


def _recognised(config: DataConfig) -> tuple[Folder, Callable[[Folder], RawLog]]:
    """The directory or zip that the settings name, and what reads its layout."""
    folder = Folder(_path(config), config.max_unpacked_mb)
    layout = layout_of(folder) if config.layout == "auto" else config.layout
    if layout is None:
        raise DataError(
            f"{folder.path} holds no log in a known layout: MovieLens (u.data, ratings.dat or "
            "ratings.csv, with its columns, and the movies), Amazon reviews (meta_CATEGORY.json.gz "
            "and its ratings or reviews), or RecBole (.inter); for your own files: "
            f"corellarec init-data {folder.path}"
        )
    return folder, READERS[layout][1]


def layout_of(folder: Folder) -> Layout | None:
    """The layout of a folder, by the names and columns of its files; None if it is not known."""
    return next((layout for layout, (fits, _) in READERS.items() if fits(folder)), None)


def source_files(config: DataConfig) -> list[Path] | None:
    """Every file that the log is read from; None where part of it comes from a server.

    Raises:
        DataError: If the layout is not known: then nothing else in a directory is looked at.
    """
    if config.interactions:
        return table_files(config)
    folder, _ = _recognised(config)
    if folder.path.is_file():
        return [folder.path]
    return sorted(file for name in folder.names if (file := folder.path / name).is_file())


def _path(config: DataConfig) -> Path:
    if config.path:
        return Path(config.path).expanduser()
    if config.fetch == "nothing":
        raise ConfigError(
            "data.path is not set, and this data set is not fetched: download it and give its "
            "directory with --set data.path=DIRECTORY"
        )
    return fetch_movielens(config.fetch)
