"""Your own log, from files or a database, as the configuration describes it."""

import dataclasses
import glob
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Literal

import polars as pl

from corellarec.base.errors import ConfigError, DataError
from corellarec.base.frames import DAMAGE, check_plain, first_line, inner_type, readable
from corellarec.base.inputs import check_file
from corellarec.config import (
    DataConfig,
    FeaturesConfig,
    InteractionsConfig,
    ItemsConfig,
    TableConfig,
)
from corellarec.data.features import check_fields
from corellarec.data.files import ending
from corellarec.data.raw import NO_USERS, Field, RawLog
from corellarec.data.row_files import (
    RATING,
    RowFile,
    ValueKind,
    delimited_file,
    frame_file,
    json_file,
    read_lines,
    readable_batches,
)
from corellarec.data.times import time_parser
from corellarec.data.unpacked import check_unpacked

SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
JSON_LINES = {".jsonl", ".ndjson", ".json"}
YES, NO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")


def read_tables(config: DataConfig) -> RawLog:
    """Read the log that ``config.interactions``, ``items`` and ``users`` describe.

    Raises:
        ConfigError: If a section cannot be used.
        DataError: If a file or column is missing, or a line of the users or items malformed.
    """
    rows, items, users = config.interactions, config.items, config.users
    assert rows is not None
    assert items is not None
    for file in _own_files(config):
        check_file(file)
        with readable(file):
            check_unpacked(file, config.max_unpacked_mb)
    value = rows.rating or rows.label
    columns = {"user": rows.user, "item": rows.item, "value": value, "time": rows.time}
    if rows.split:
        columns["split"] = rows.split
    files = scan_table(rows, columns, "interactions")
    kind = RATING if rows.rating else _label(rows.positive_values)
    return RawLog(
        files=tuple(dataclasses.replace(file, value=kind) for file in files),
        users=_features(users, rows, "user", config.time_unit) if users else NO_USERS,
        items=_features(items, rows, "item", config.time_unit),
        user_fields=_fields(users) if users else (),
        item_fields=_fields(items),
        labelled=rows.rating is None,
        time_unit=config.time_unit,
    )


def table_files(config: DataConfig) -> list[Path] | None:
    """Every file of the three tables; None where one of them comes from a server."""
    tables = (config.interactions, config.items, config.users)
    if any(t and t.database and "://" in _address(t.database) for t in tables):
        return None
    return list(_own_files(config))


def _own_files(config: DataConfig) -> Iterator[Path]:
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
            f"{path}: files end in .csv, .tsv, .parquet or .jsonl, before .gz or .zst; say what "
            "stands between the values with separator"
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
    return delimited_file(source, name=path.name, separator=separator, columns=columns)


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


def _label(positive_values: tuple[str, ...] | None) -> ValueKind:
    def parse(value: pl.Expr) -> pl.Expr:
        text = value.cast(pl.String).str.strip_chars()
        if positive_values:
            return text.is_in(positive_values)
        text = text.str.to_lowercase()
        return pl.when(text.is_in(YES)).then(1.0).when(text.is_in(NO)).then(0.0)

    return ValueKind("label", "0 or 1", parse)


def _template(title: str) -> tuple[str, tuple[str, ...]]:
    """A template with ``{}`` for every column, and the columns."""
    names = tuple(re.findall(r"\{([^{}]+)\}", title))
    return (re.sub(r"\{[^{}]+\}", "{}", title), names) if names else ("{}", (title,))


def _fields(features: FeaturesConfig) -> tuple[Field, ...]:
    return (
        *(Field(name) for name in features.categorical),
        *(Field(name, "multi") for name in features.multi),
        *(Field(name, "numeric") for name in features.numeric),
    )


def _features(
    features: FeaturesConfig,
    interactions: InteractionsConfig,
    side: Literal["user", "item"],
    time_unit: str,
) -> pl.DataFrame:
    """``id``, the ``title`` of items, and the features: the table of users or items."""
    fields, section = _fields(features), f"{side}s"
    check_fields(fields, section)
    title = features.title if isinstance(features, ItemsConfig) else None
    template, parts = _template(title) if title else ("", ())
    names = dict.fromkeys([*(field.name for field in fields), *parts])
    # The prefix keeps columns of any name apart from the id and the time.
    columns = {"id": features.id or getattr(interactions, side)} | {
        f"column {name}": name for name in names
    }
    if features.files or features.query:
        table = _collect(scan_table(features, columns, section))
    else:
        columns = {"id": columns.pop("id"), "time": interactions.time} | columns
        table = _collect(scan_table(interactions, columns, "interactions"))
        parse, _ = time_parser(table, time_unit, lenient=True)
        first = [pl.col("id").cast(pl.String), parse(pl.col("time")).alias("time")]
        table = table.with_columns(first).sort(*_sort_keys(table), nulls_last=True)
        table = table.unique("id", keep="first", maintain_order=True).drop("time")
    for column, kind in table.schema.items():
        name = column.removeprefix("column ")
        listed = isinstance(kind, pl.List | pl.Array) and name in features.multi
        check_plain(inner_type(kind) if listed else kind, name, f"data.{section}")
    return table.select(
        pl.col("id").cast(pl.String),
        *([_title(template, parts)] if title else []),
        *(_convert(field, table.schema, features.multi).alias(field.name) for field in fields),
    ).filter(pl.col("id").is_not_null())


def _sort_keys(table: pl.DataFrame) -> list[pl.Expr]:
    """Every column as something that can be sorted; lists by their text."""
    return [
        pl.col(name).cast(pl.List(pl.String)).list.join("|")
        if isinstance(kind, pl.List | pl.Array)
        else pl.col(name)
        for name, kind in table.schema.items()
    ]


def _title(template: str, names: tuple[str, ...]) -> pl.Expr:
    """The template filled from its columns, or null where all of them are empty."""
    parts = [pl.col(f"column {name}").cast(pl.String).fill_null("") for name in names]
    titled = ~pl.all_horizontal(part == "" for part in parts)
    return pl.when(titled).then(pl.format(template, *parts)).alias("title")


def _convert(field: Field, schema: pl.Schema, separators: dict[str, str]) -> pl.Expr:
    column, found = pl.col(f"column {field.name}"), schema[f"column {field.name}"]
    if field.kind == "categorical":
        return column.cast(pl.String)
    if field.kind == "numeric":
        return column.cast(pl.Float64, strict=False)
    if isinstance(found, pl.List | pl.Array):
        return column.cast(pl.List(pl.String)).list.unique(maintain_order=True)
    text = column.cast(pl.String)
    listed = text.str.extract_all(r'"(?:[^"\\]|\\.)*"').list.eval(pl.element().str.strip_chars('"'))
    parts = text.str.split(separators[field.name]).list.eval(pl.element().str.strip_chars())
    tokens = pl.when(text.str.starts_with("[")).then(listed).otherwise(parts)
    return tokens.list.unique(maintain_order=True)


def _collect(files: list[RowFile]) -> pl.DataFrame:
    """All rows of a table of users or items."""
    try:
        return pl.concat(file.fast for file in files).collect(engine="streaming")
    except DAMAGE as error:
        for file in files:
            for batch in readable_batches(file):
                bad = batch.filter(pl.col("problem").is_not_null())
                if bad.height:
                    row = bad.row(0, named=True)
                    place = f"{file.name}, {file.unit} {row['line']}"
                    raise DataError(f"{place}: {row['problem']}") from error
        raise DataError(f"{files[0].name} cannot be read: {first_line(error)}") from error
