"""RecBole's atomic files: ``NAME.inter``, ``NAME.item``, ``NAME.user``, with typed headers.

Source: https://recbole.io/docs/user_guide/data/atomic_files.html
"""

import polars as pl

from corellarec.data.movielens import with_year
from corellarec.data.raw import Field, Folder, RawLog, read_delimited, to_number
from corellarec.errors import DataError

TITLE_COLUMNS = ("title", "movie_title", "item_name", "name")
# Columns of the ML-100K atomic files, as this project names the features.
RENAMED = {"class": "genres", "release_year": "year"}


def read_atomic(folder: Folder) -> RawLog:
    """Read a log in atomic files; features are the ``token`` and ``token_seq`` columns.

    The title of a film gets its year, as in ``Heat (1995)``, where a ``release_year`` column
    gives one and the title does not. Zip codes are left out: nearly every user has their own.

    Raises:
        DataError: If a file or column is missing, or a line malformed.
    """
    rows, _, file = _table(folder, ".inter", {"user_id", "item_id", "rating", "timestamp"})
    rows = rows.rename({"user_id": "user", "item_id": "item", "timestamp": "time"})
    rows = to_number(to_number(rows, "rating", pl.Float64, file), "time", pl.Int64, file)
    items, kinds, file = _table(folder, ".item", {"item_id"})
    title = next((name for name in TITLE_COLUMNS if name in kinds), None)
    if title is None:
        raise DataError(
            f"{file} has no title column ({' or '.join(TITLE_COLUMNS)}), which the language model "
            f"reads; found: {', '.join(kinds)}"
        )
    item_fields = _fields(kinds, skip={"item_id", title})
    items = _features(items, kinds).rename({"item_id": "id", title: "title"})
    if Field("year") in item_fields:
        year = pl.col("year").str.extract(r"^(\d{4})$")
        dated = pl.format("{} ({})", pl.col("title"), year)
        items = items.with_columns(
            pl.when(year.is_not_null() & with_year().is_null() & (pl.col("title") != ""))
            .then(dated)
            .otherwise(pl.col("title"))
            .alias("title"),
            year.alias("year"),
        )
    users, kinds, _ = _table(folder, ".user", {"user_id"})
    user_fields = _fields(kinds, skip={"user_id", "zip_code"})
    users = _features(users, kinds).rename({"user_id": "id"})
    return RawLog(rows, users, items, user_fields, item_fields)


def _table(
    folder: Folder, suffix: str, required: set[str]
) -> tuple[pl.DataFrame, dict[str, str], str]:
    """The table of the one file with this suffix, the type of each column, and the file's name."""
    path = folder.suffix(suffix)
    if path is None:
        raise DataError(f"{folder.path} has no {suffix} file: data.source = 'atomic' needs one")
    content = folder.read(path)
    name = path.rpartition("/")[2]
    header = content.partition(b"\n")[0].decode("utf-8", "replace").strip().split("\t")
    kinds = {}
    for column in header:
        column_name, colon, kind = column.partition(":")
        if not colon or kind not in ("token", "token_seq", "float", "float_seq"):
            raise DataError(
                f"{name}, line 1: column {column!r} is not name:type "
                "(types: token, token_seq, float, float_seq)"
            )
        kinds[column_name] = kind
    if missing := required - set(kinds):
        raise DataError(
            f"{name}, line 1: no column {', '.join(sorted(missing))}; found: {', '.join(kinds)}"
        )
    table = read_delimited(content, name=name, separator="\t", columns=list(kinds), header_lines=1)
    return table, kinds, name


def _fields(kinds: dict[str, str], skip: set[str]) -> tuple[Field, ...]:
    return tuple(
        Field(RENAMED.get(name, name), multi=kind == "token_seq")
        for name, kind in kinds.items()
        if name not in skip and kind in ("token", "token_seq")
    )


def _features(table: pl.DataFrame, kinds: dict[str, str]) -> pl.DataFrame:
    lists = [
        pl.col(name).str.split(" ").alias(name)
        for name, kind in kinds.items()
        if kind == "token_seq" and name not in TITLE_COLUMNS
    ]
    return table.with_columns(lists).rename(
        {old: new for old, new in RENAMED.items() if old in kinds}
    )
