"""Tables of your own where they lie: files of every kind, or a query to a database."""

import glob
import os
import sqlite3
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path

import polars as pl

from corellarec.base.errors import ConfigError, DataError
from corellarec.base.frames import first_line, readable
from corellarec.base.inputs import check_file
from corellarec.config import DataConfig, TableConfig
from corellarec.data.files import ending
from corellarec.data.row_files import RowFile, delimited_file, frame_file, json_file, read_lines

SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": "\t", ".dat": "::"}
JSON_LINES = {".jsonl", ".ndjson", ".json"}


def table_files(config: DataConfig) -> list[Path] | None:
    """Every file of the three tables; None where one of them comes from a server."""
    tables = (config.interactions, config.items, config.users)
    if any(t and t.database and "://" in _address(t.database) for t in tables):
        return None
    return list(own_files(config))


def own_files(config: DataConfig) -> Iterator[Path]:
    """The files of the three tables, those of databases among them."""
    for name in ("interactions", "items", "users"):
        table: TableConfig | None = getattr(config, name)
        if table and table.files:
            yield from _paths(table.files, name)
        elif table and table.database and "://" not in (address := _address(table.database)):
            yield Path(address).expanduser()


def scan_table(
    table: TableConfig, columns: Mapping[str, str | None], section: str
) -> list[RowFile]:
    """The files of a table, or its query's answer.

    Args:
        table: Where it lies.
        columns: For each of our columns, the table's.
        section: Name of the section, for messages.
    """
    wanted = {ours: theirs for ours, theirs in columns.items() if theirs}
    if table.database and table.query:
        answer = _ask(_address(table.database), table.query, section)
        return [frame_file(answer.lazy(), name=f"the query of data.{section}", columns=wanted)]
    assert table.files is not None
    return [_scan_file(path, table, wanted) for path in _paths(table.files, section)]


def _paths(patterns: str | tuple[str, ...], section: str) -> list[Path]:
    found = []
    for pattern in (patterns,) if isinstance(patterns, str) else patterns:
        path = Path(pattern).expanduser()
        if path.exists():  # a name that is there may have brackets in it
            found.append(path)
            continue
        matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 (it may be absolute)
        if not matches:
            raise DataError(f"data.{section}.files: {pattern} matches no file")
        found += [Path(match) for match in matches]
    return found


def _scan_file(path: Path, table: TableConfig, columns: dict[str, str]) -> RowFile:
    kind = ending(path)
    if kind == ".parquet":
        with readable(path):
            scanned = pl.scan_parquet(path, glob=False)
        return frame_file(scanned, name=path.name, columns=columns)
    if kind in JSON_LINES:
        return json_file(path, name=path.name, columns=columns)
    separator = table.separator or SEPARATORS.get(kind)
    if separator is None:
        raise DataError(
            f"{path}: files end in .csv, .tsv, .dat, .txt, .parquet or .jsonl, before .gz or .zst; "
            "say what stands between the values with separator"
        )
    source = path
    if table.encoding.lower().replace("_", "-") not in ("utf-8", "utf8"):
        try:
            with readable(path):
                source = BytesIO("".join(read_lines(path, table.encoding)).encode())
        except (LookupError, UnicodeError) as error:
            raise ConfigError(
                f"encoding: {table.encoding!r} is no text encoding that Python knows"
            ) from error
    return delimited_file(
        source, name=path.name, separator=separator, columns=columns, header=table.header
    )


def _address(database: str) -> str:
    if not database.startswith("$"):
        return database
    name = database.removeprefix("$").strip("{}")
    if name not in os.environ:
        raise ConfigError(f"database = '{database}': the environment has no variable {name}")
    return os.environ[name]


def _ask(address: str, query: str, section: str) -> pl.DataFrame:
    """The answer to a query; nothing in the database is changed."""
    place = f"data.{section}.query"
    if "://" in address:
        try:
            return pl.read_database_uri(query, address)
        except ImportError as error:
            raise ConfigError(f"{place}: pip install 'corellarec[sql]' for servers") from error
        except Exception as error:  # every driver has exceptions of its own
            raise DataError(f"{place}: {first_line(error)}") from error
    path = Path(address).expanduser()
    check_file(path)
    with path.open("rb") as file:
        is_sqlite = file.read(15) == b"SQLite format 3"
    try:
        if is_sqlite:
            connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
            try:
                return pl.read_database(query, connection, infer_schema_length=None)
            finally:
                connection.close()
        import duckdb

        with duckdb.connect(str(path), read_only=True) as connection:
            return connection.sql(query).pl()
    except ImportError as error:
        raise ConfigError(f"{place}: pip install 'corellarec[sql]' for DuckDB") from error
    except Exception as error:
        raise DataError(f"{place}: {first_line(error)}") from error
