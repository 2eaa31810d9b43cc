"""First settings for your own tables, from the names of their columns and their first rows."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

from corellarec.base.errors import DataError
from corellarec.base.frames import check_plain, readable
from corellarec.base.inputs import check_file
from corellarec.config import DataConfig, TableConfig
from corellarec.data.features import reserved
from corellarec.data.files import ending
from corellarec.data.raw import Folder
from corellarec.data.row_files import header_of, read_lines
from corellarec.data.sources.recognise import layout_of
from corellarec.data.sources.scan import JSON_LINES, SEPARATORS, scan_table
from corellarec.data.unpacked import check_unpacked

SAMPLE_ROWS = 2000
FEW = 0.5  # distinct values per row, above which a column of text is no category
FEW_VALUES = 20  # distinct values that any column may have and be a category
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
class Proposal:
    """Settings for tables of your own.

    Args:
        settings: The tree of settings, as :func:`corellarec.config.parse_config` takes it and a
            TOML file holds it: ``{"data": {"interactions": {...}, "items": {...}, ...}}``.
        guesses: What was guessed, a line of text each.
    """

    settings: dict[str, Any]
    guesses: list[str]


@dataclass(frozen=True)
class Table:
    """A file, the first of its rows, and the settings that say where it is."""

    path: Path
    rows: pl.DataFrame
    settings: dict[str, str]

    @property
    def name(self) -> str:
        """The file's name without its endings, in lower case."""
        return self.path.name.partition(".")[0].lower()

    def lacks(self, what: str, remedy: str) -> DataError:
        """The error of a column that is not there."""
        found = ", ".join(self.rows.columns)
        return DataError(f"{self.path}: no column looks like the {what}; {remedy}; found: {found}")


def propose_settings(paths: Iterable[Path], roles: Mapping[str, str]) -> Proposal:
    """Settings for the tables at ``paths``.

    Which table is the log, and which hold items and users, is told by their columns, and by names
    such as ``interactions.parquet``, ``items.csv``, ``users.jsonl``. Columns are told by their
    names, and features by their types and first values.

    Args:
        paths: Files, or directories whose tables are taken.
        roles: Columns that are known: ``user``, ``item``, ``time``, ``rating``, ``label`` and
            ``split`` of the log; ``title`` of the items, or a template such as
            ``{name} by {brand}``; ``items.id`` and ``users.id``, where these tables call the id
            otherwise than the log.

    Raises:
        DataError: If there are no tables, or a column that is needed cannot be told.
    """
    paths = list(paths)
    _refuse_known_layout(paths)
    tables = [_look(path) for path in _files(paths)]
    log = max(
        tables,
        key=lambda table: (table.name == "interactions", _score(table, roles), table.rows.height),
    )
    found = {role: _column(log, role, roles) for role in ("user", "item", "time")}
    kind, column = _value(log, roles, set(found.values()))
    found[kind] = column
    if "split" in roles or _find(log.rows.columns, "split", {}):
        found["split"] = _column(log, "split", roles)
    guesses = [f"interactions: {log.path} ({', '.join(f'{k} = {v}' for k, v in found.items())})"]
    data: dict[str, Any] = {"interactions": {**log.settings, **found}}
    if kind == "rating":
        data = {"positive_rating": _threshold(log, column, guesses), **data}
    others = [table for table in tables if table is not log]
    items = _table_of("items", found["item"], others, roles)
    if items:
        data["items"] = _features("items", *items, roles, guesses)
    else:
        unused = [name for name in log.rows.columns if name not in found.values()]
        if _find(unused, "title", roles) is None:
            raise DataError(
                "no column looks like the items' title, which the language model reads; give the "
                f"table that holds it, too, or {_say_which('title')}"
            )
        data["items"] = _features("items", log, None, roles, guesses, used=set(found.values()))
    others = [table for table in others if not items or table is not items[0]]
    if users := _table_of("users", found["user"], others, roles):
        data["users"] = _features("users", *users, roles, guesses)
    return Proposal({"data": data}, guesses)


def _refuse_known_layout(paths: list[Path]) -> None:
    path = paths[0] if paths else Path()
    is_folder = len(paths) == 1 and (path.is_dir() or path.suffix.lower() == ".zip")
    if is_folder and layout_of(Folder(paths[0])):
        raise DataError(
            f"{paths[0]} is in a layout that is read as it is and needs no settings: "
            f"corellarec run --preset quick --set data.path={paths[0]} --out runs/{paths[0].stem}"
        )


def _files(paths: Iterable[Path]) -> list[Path]:
    found = []
    for path in paths:
        if not path.is_dir():
            check_file(path)
        with readable(path):
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
    with readable(path):
        check_unpacked(path, DataConfig().max_unpacked_mb)
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


def _plain(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())


def _find(columns: Iterable[str], role: str, roles: Mapping[str, str]) -> str | None:
    """The column of a role: as told, else by its name."""
    if told := roles.get(role):
        return told if told in columns or (role == "title" and "{" in told) else None
    names = {_plain(column): column for column in columns}
    return next((names[name] for name in NAMES[role] if name in names), None)


def _say_which(*roles: str) -> str:
    options = " or ".join(f"--{role} COLUMN" for role in roles)
    arguments = " or ".join(f'{role}="COLUMN"' for role in roles)
    return f"say which column it is with {options} (in Python {arguments})"


def _column(table: Table, role: str, roles: Mapping[str, str]) -> str:
    """The column of a role that is needed."""
    columns = table.rows.columns
    if (told := roles.get(role)) and told not in columns:
        raise DataError(
            f"{table.path}: no column {told!r} for the {role}; found: {', '.join(columns)}"
        )
    name = _find(columns, role, roles)
    if name is None:
        raise table.lacks(role, _say_which(role))
    return name


def _value(
    log: Table, roles: Mapping[str, str], used: set[str]
) -> tuple[Literal["rating", "label"], str]:
    """The column that says how the user liked the item, and whether it is a rating or a label."""
    for kind in ("rating", "label"):
        if kind in roles:
            return kind, _column(log, kind, roles)
    types = log.rows.schema
    for kind in ("rating", "label"):
        if name := _find(log.rows.columns, kind, {}):
            return ("label" if types[name] == pl.Boolean else kind), name
    booleans = [name for name in types if types[name] == pl.Boolean and name not in used]
    if len(booleans) == 1:
        return "label", booleans[0]
    raise log.lacks("rating or a label", _say_which("rating", "label"))


def _score(table: Table, roles: Mapping[str, str]) -> int:
    """How much of a log a table has."""
    wanted = ("user", "item", "time", "rating", "label")
    return sum(_find(table.rows.columns, role, roles) is not None for role in wanted)


def _threshold(log: Table, column: str, guesses: list[str]) -> float:
    """The rating that about half of the rows reach."""
    check_plain(log.rows.schema[column], column, str(log.path))
    ratings = log.rows[column].cast(pl.String).cast(pl.Float64, strict=False).drop_nulls()
    if not len(ratings):
        raise DataError(f"{log.path}: column {column!r} holds no numbers: is it the label?")
    steps = ratings.unique().sort().to_list()
    best = min(steps[1:] or steps, key=lambda step: abs(float((ratings >= step).mean() or 0) - 0.5))
    share = float((ratings >= best).mean() or 0)  # pyright: ignore[reportArgumentType]
    guesses.append(f"a rating of {best:g} or more is positive: {share:.0%} of the first rows")
    return best


def _table_of(
    side: Literal["items", "users"], key: str, tables: list[Table], roles: Mapping[str, str]
) -> tuple[Table, str] | None:
    """The table of items or users and its column of ids; ``key`` is what the log calls it."""
    one, other = side.removesuffix("s"), "users" if side == "items" else "items"

    def id_of(table: Table) -> str | None:
        columns = [name for name, kind in table.rows.schema.items() if kind != pl.Boolean]
        if told := roles.get(f"{side}.id"):
            return told if told in columns else None
        if key in columns:
            return key
        plain = {_plain(name): name for name in columns}
        sure = (f"{one}id", one, "id") if one in table.name else (f"{one}id", one)
        return next((plain[name] for name in sure if name in plain), _find(columns, one, {}))

    def rank(table: Table) -> tuple[bool, bool, bool]:
        titled = side == "items" and _find(table.rows.columns, "title", roles) is not None
        return table.name == side, one in table.name, titled

    for table in sorted(tables, key=rank, reverse=True):
        if table.name != other and (name := id_of(table)):
            return table, name
    if named := next((table for table in tables if table.name == side), None):
        raise named.lacks(
            f"{one}'s id", f'call it {key!r} as in the log, or say which it is with "{side}.id"'
        )
    return None


def _features(
    side: Literal["items", "users"],
    table: Table,
    key: str | None,
    roles: Mapping[str, str],
    guesses: list[str],
    used: Collection[str] = (),
) -> dict[str, Any]:
    """The section of items or users; without a ``key`` the table is the log."""
    section: dict[str, Any] = {**table.settings, "id": key} if key else {}
    used = {*used, *([key] if key else [])}
    columns = table.rows.columns
    if side == "items":
        # An id is no title, whatever it is called, unless it is said to be.
        unused = columns if "title" in roles else [name for name in columns if name not in used]
        title = _find(unused, "title", roles)
        if title is None:
            raise table.lacks("title, which the language model reads", _say_which("title"))
        section["title"] = title
        used.add(title)
    found: dict[str, Any] = {"categorical": [], "multi": {}, "numeric": []}
    left_out = []
    for name in columns:
        if name in used:
            continue
        kind, separator = _kind_of(table.rows[name].drop_nulls())
        if kind is None or name in reserved(columns):
            left_out.append(name)
        elif kind == "multi":
            found["multi"][name] = separator
        else:
            found[kind].append(name)
    section |= {kind: names for kind, names in found.items() if names}
    listed = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in found.items() if names)
    title = f"title = {section['title']}; " if "title" in section else ""
    guesses.append(
        f"{side}: {table.path} ({title}{listed or 'no features'}"
        + (f"; left out: {', '.join(left_out)})" if left_out else ")")
    )
    return section


def _kind_of(
    column: pl.Series,
) -> tuple[Literal["categorical", "multi", "numeric"] | None, str | None]:
    """What feature a column's known values make, if any; and the separator of several tokens."""
    kind = column.dtype
    if isinstance(kind, pl.List | pl.Array):
        tokens = not (kind.inner.is_float() or kind.inner.is_nested())
        return ("multi", "|") if tokens else (None, None)
    if kind.is_nested() or kind in (pl.Binary, pl.Duration, pl.Object) or not len(column):
        return None, None
    text = column.cast(pl.String, strict=False).drop_nulls()
    if not len(text):
        return None, None
    if separator := _separator(text):
        return "multi", separator
    distinct = text.n_unique()
    if (kind.is_float() or kind.is_decimal()) and distinct > FEW_VALUES:
        return "numeric", None
    longest = int(text.str.len_chars().max())  # pyright: ignore[reportArgumentType]
    if distinct <= max(FEW_VALUES, FEW * len(text)) and longest <= 100:
        return "categorical", None
    numbers = text.cast(pl.Float64, strict=False)
    return (None if numbers.null_count() else "numeric"), None


def _separator(text: pl.Series) -> str | None:
    """What stands between tokens, where many values have several."""
    for separator in ("|", ";"):
        if text.str.contains(separator, literal=True).mean() > 0.2:  # pyright: ignore[reportOperatorIssue]
            return separator
    return None
