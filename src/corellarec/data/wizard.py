"""A first configuration for your own files, from their names and first rows."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import tomli_w

from corellarec.base.errors import DataError
from corellarec.config import TableConfig
from corellarec.data.files import ending
from corellarec.data.raw import Folder
from corellarec.data.row_files import header_of, read_lines
from corellarec.data.sources.recognise import reader_of
from corellarec.data.sources.tables import JSON_LINES, SEPARATORS, scan_table

SAMPLE_ROWS = 2000
FEW = 0.5  # distinct values per row, above which a column of text is no category
# What columns are called, best first; compared in lower case without anything but letters.
NAMES = {
    "user": ("userid", "user", "uid", "reviewerid", "customerid", "memberid", "visitorid",
             "accountid", "customer", "member", "sessionid"),
    "item": ("itemid", "item", "iid", "productid", "asin", "movieid", "bookid", "articleid",
             "songid", "trackid", "videoid", "newsid", "adid", "isbn", "sku", "product", "movie"),
    "rating": ("rating", "stars", "score", "overall", "bookrating", "userrating"),
    "label": ("label", "click", "clicked", "isclick", "liked", "like", "purchased", "target"),
    "time": ("timestamp", "time", "datetime", "date", "createdat", "eventtime", "ts",
             "unixreviewtime", "ratedat", "day"),
    "split": ("split", "fold", "subset"),
    "title": ("title", "name", "itemname", "productname", "movietitle", "booktitle", "headline",
              "itemtitle", "description"),
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A file, the first of its rows, and the settings that say where it is."""

    path: Path
    rows: pl.DataFrame
    settings: dict[str, str]


def propose(paths: Iterable[Path], roles: Mapping[str, str]) -> tuple[str, list[str]]:
    """Settings in TOML for the tables at ``paths``, and what was guessed, line by line.

    Args:
        paths: Files, or directories whose tables are taken.
        roles: Columns that are known: ``user``, ``item``, ``time``, ``rating``, ``label``,
            ``title``.

    Raises:
        DataError: If there are no tables, or a column that is needed cannot be told.
    """
    paths = list(paths)
    if len(paths) == 1 and (paths[0].is_dir() or paths[0].suffix == ".zip"):
        folder = Folder(paths[0])
        if reader_of(folder):
            raise DataError(
                f"{paths[0]} is in a layout that is read as it is and needs no settings: "
                f"corellarec run --preset quick --set data.path={paths[0]} "
                f"--out runs/{paths[0].stem}"
            )
    tables = [_look(path) for path in _files(paths)]
    log = max(tables, key=lambda table: (_score(table, roles), table.rows.height))
    columns = log.rows.columns
    found = {role: _find(columns, role, roles) for role in ("user", "item", "time")}
    for role, column in found.items():
        if column is None:
            raise DataError(
                f"{log.path}: no column looks like the {role}; say which with --{role} COLUMN; "
                f"found: {', '.join(columns)}"
            )
    value = "rating" if "rating" in roles else "label" if "label" in roles else None
    value = value or next((v for v in ("rating", "label") if _find(columns, v, roles)), None)
    if value is None:
        raise DataError(
            f"{log.path}: no column looks like a rating or a label; say which with --rating COLUMN "
            f"or --label COLUMN; found: {', '.join(columns)}"
        )
    found[value] = _find(columns, value, roles)
    if "split" not in found and (split := _find(columns, "split", {})):
        found["split"] = split
    said = [f"interactions: {log.path} ({', '.join(f'{k} = {v}' for k, v in found.items())})"]
    data: dict[str, object] = {"interactions": {**log.settings, **found}}
    if value == "rating":
        data = {"positive_rating": _threshold(log, found[value], said), **data}
    used = {column for column in found.values() if column}
    for side in ("items", "users"):
        key = found[side.removesuffix("s")]
        assert key is not None
        section = _side(side, key, tables, log, used, roles, said)
        if section:
            data[side] = section
    if "items" not in data:
        raise DataError(
            "no column looks like the items' title, which the language model reads; give the file "
            "that holds it, too, or say which column it is with --title COLUMN"
        )
    return tomli_w.dumps({"data": data}), said


def _files(paths: Iterable[Path]) -> list[Path]:
    found = []
    for path in paths:
        if not path.exists():
            raise DataError(f"{path} is not there")
        found += sorted(path.iterdir()) if path.is_dir() else [path]
    tables = [path for path in found if path.is_file() and _kind(path)]
    if not tables:
        raise DataError(
            "no tables found: files end in .csv, .tsv, .parquet or .jsonl, before .gz or .zst"
        )
    return tables


def _kind(path: Path) -> bool:
    return ending(path) in {".parquet", *SEPARATORS, *JSON_LINES}


def _look(path: Path) -> Table:
    """The first rows of a file; its columns are what the first row has."""
    kind = ending(path)
    settings = {"files": str(path)}
    try:
        if kind == ".parquet":
            return Table(
                path, pl.scan_parquet(path, glob=False).head(SAMPLE_ROWS).collect(), settings
            )
        if kind in JSON_LINES:
            scanned = pl.scan_ndjson(path, infer_schema_length=SAMPLE_ROWS)
            return Table(path, scanned.head(SAMPLE_ROWS).collect(), settings)
        usual = SEPARATORS[kind]
        separator = max((usual, ",", ";", "\t", "|"), key=next(read_lines(path), "").count)
        if separator != usual:
            settings["separator"] = separator
        names = header_of(path, separator)
        (file,) = scan_table(TableConfig(**settings), {name: name for name in names}, "files")  # pyright: ignore[reportArgumentType]
        return Table(path, file.fast.head(SAMPLE_ROWS).collect(), settings)
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path}: {str(error).splitlines()[0]}") from error


def _plain(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())


def _find(columns: Iterable[str], role: str, roles: Mapping[str, str]) -> str | None:
    """The column of a role: as told, else by its name."""
    if role in roles:
        return roles[role] if roles[role] in columns else None
    names = {_plain(column): column for column in columns}
    return next((names[name] for name in NAMES[role] if name in names), None)


def _score(table: Table, roles: Mapping[str, str]) -> int:
    """How much of a log a table has."""
    wanted = ("user", "item", "time", "rating", "label")
    return sum(_find(table.rows.columns, role, roles) is not None for role in wanted)


def _threshold(log: Table, column: str | None, said: list[str]) -> float:
    """The rating that about half of the rows reach."""
    assert column is not None
    ratings = log.rows[column].cast(pl.String).cast(pl.Float64, strict=False).drop_nulls()
    if not len(ratings):
        raise DataError(f"{log.path}: column {column} holds no numbers: give --label instead")
    steps = ratings.unique().sort().to_list()
    best = min(steps[1:] or steps, key=lambda step: abs(float((ratings >= step).mean() or 0) - 0.5))
    share = float((ratings >= best).mean() or 0)  # pyright: ignore[reportArgumentType]
    said.append(f"a rating of {best:g} or more is positive: {share:.0%} of the first rows")
    return best


def _side(
    side: str,
    key: str,
    tables: list[Table],
    log: Table,
    used: set[str],
    roles: Mapping[str, str],
    said: list[str],
) -> dict[str, object]:
    """The section of users or items."""
    others = [table for table in tables if table.path != log.path]
    for table in others:
        name = _find(table.rows.columns, side.removesuffix("s"), {}) or (
            key if key in table.rows.columns else None
        )
        name = name or ("id" if "id" in table.rows.columns and side in table.path.name else None)
        if name:
            section: dict[str, object] = {**table.settings, "id": name}
            return section | _features(side, table, {name}, roles, said)
    if side == "users":
        return {}
    title = _find(log.rows.columns, "title", roles)
    return _features(side, log, used, roles, said) if title else {}


def _features(
    side: str, table: Table, used: set[str], roles: Mapping[str, str], said: list[str]
) -> dict[str, object]:
    section: dict[str, object] = {}
    if side == "items":
        title = _find(table.rows.columns, "title", roles)
        if title is None:
            raise DataError(
                f"{table.path}: no column looks like the title, which the language model reads; "
                f"say which with --title COLUMN; found: {', '.join(table.rows.columns)}"
            )
        section["title"] = title
        used = used | {title}
    categorical, multi, numeric, left_out = [], {}, [], []
    for name in table.rows.columns:
        if name in used:
            continue
        column = table.rows[name].drop_nulls()
        text = column.cast(pl.String, strict=False) if not column.dtype.is_nested() else None
        if isinstance(column.dtype, pl.List):
            multi[name] = "|"
        elif text is None or not len(text):
            left_out.append(name)
        elif separator := _separator(text):
            multi[name] = separator
        elif text.n_unique() <= max(20, FEW * len(text)) and text.str.len_chars().max() <= 100:  # pyright: ignore[reportOperatorIssue]
            categorical.append(name)
        elif text.cast(pl.Float64, strict=False).null_count() == 0:
            numeric.append(name)
        else:
            left_out.append(name)
    found = {"categorical": categorical, "multi": multi, "numeric": numeric}
    section |= {kind: names for kind, names in found.items() if names}
    listed = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in found.items() if names)
    title = f"title = {section['title']}; " if "title" in section else ""
    said.append(
        f"{side}: {table.path} ({title}{listed or 'no features'}"
        + (f"; left out: {', '.join(left_out)})" if left_out else ")")
    )
    return section


def _separator(text: pl.Series) -> str | None:
    """What stands between tokens, where many values have several."""
    for separator in ("|", ";"):
        if text.str.contains(separator, literal=True).mean() > 0.2:  # pyright: ignore[reportOperatorIssue]
            return separator
    return None
