"""RecBole's atomic files: ``NAME.inter``, ``NAME.item``, ``NAME.user``, with typed headers.

Source: https://recbole.io/docs/user_guide/data/atomic_files.html
"""

import polars as pl

from corellarec.base.errors import DataError
from corellarec.base.frames import readable
from corellarec.data.raw import NO_USERS, Field, Folder, RawLog
from corellarec.data.row_files import delimited_file
from corellarec.data.sources.movielens import with_year

TITLE_COLUMNS = ("title", "movie_title", "item_name", "name")
# Columns of the ML-100K atomic files, as this project names the features.
RENAMED = {"class": "genres", "release_year": "year"}


def is_atomic(folder: Folder) -> bool:
    """Whether a folder holds a ``.inter`` file."""
    return any(name.endswith(".inter") for name in folder.names)


def read_atomic(folder: Folder) -> RawLog:
    """Read a log in atomic files; features are the columns of tables beside id and title.

    The title of a film gets its year, as in ``Heat (1995)``, where a ``release_year`` column
    gives one and the title does not. Where there is no column ``rating`` or ``label``, all rows are
    positive. Of zip codes the first character is kept, as of MovieLens's. Sequences of floats are
    left out.

    Raises:
        DataError: If a file or column is missing, or a line of the users or items malformed.
    """
    path, kinds = _header(folder, ".inter", {"user_id", "item_id", "timestamp"})
    value = next((name for name in ("rating", "label") if name in kinds), None)
    name = path.rpartition("/")[2]
    columns = {"user": "user_id", "item": "item_id", "value": value, "time": "timestamp"}
    rows = delimited_file(
        folder.source(path),
        name=name,
        separator="\t",
        columns={our: list(kinds).index(name) for our, name in columns.items() if name},
        quoted=False,
    )
    unrated = None
    if value is None:
        rows = rows.all_positive()
        unrated = f"{name}, line 1: no column rating or label; found: {', '.join(kinds)}"
    items, item_fields, file = _entities(folder, ".item", "item_id")
    title = next((name for name in TITLE_COLUMNS if name in items.columns), None)
    if title is None:
        raise DataError(
            f"{file} has no title column ({' or '.join(TITLE_COLUMNS)}), which the language model "
            f"reads; found: {', '.join(items.columns)}"
        )
    items = items.rename({title: "title"})
    item_fields = tuple(field for field in item_fields if field.name != title)
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
    users, user_fields = NO_USERS, ()
    if folder.suffix(".user"):
        users, user_fields, _ = _entities(folder, ".user", "user_id")
    if Field("zip_code") in user_fields:
        users = users.with_columns(pl.col("zip_code").str.slice(0, 1).alias("zip_prefix"))
        user_fields = tuple(
            Field("zip_prefix") if field.name == "zip_code" else field for field in user_fields
        )
    return RawLog(
        (rows,), users, items, user_fields, item_fields,
        labelled=value != "rating", unrated=unrated, time_unit="auto",
    )  # fmt: skip


def _header(folder: Folder, suffix: str, required: set[str]) -> tuple[str, dict[str, str]]:
    """The one file with this suffix, and the type of each of its columns."""
    path = folder.suffix(suffix)
    if path is None:
        raise DataError(f"{folder.path} has no {suffix} file, which atomic files need")
    name = path.rpartition("/")[2]
    header = folder.read(path).partition(b"\n")[0].decode("utf-8", "replace").strip().split("\t")
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
    return path, kinds


def _entities(folder: Folder, suffix: str, key: str) -> tuple[pl.DataFrame, tuple[Field, ...], str]:
    """The table of users or items with ``id``, its features, and the file's name."""
    path, kinds = _header(folder, suffix, {key})
    name = path.rpartition("/")[2]
    with readable(name):
        table = pl.read_csv(
            folder.source(path),
            separator="\t",
            quote_char=None,
            infer_schema=False,
            new_columns=list(kinds),
        )
    lists = [
        pl.col(name).str.split(" ")
        for name, kind in kinds.items()
        if kind == "token_seq" and name not in TITLE_COLUMNS
    ]
    numbers = [
        pl.col(name).cast(pl.Float64, strict=False)
        for name, kind in kinds.items()
        if kind == "float"
    ]
    names = {"token": "categorical", "token_seq": "multi", "float": "numeric"}
    fields = tuple(
        Field(RENAMED.get(name, name), names[kind])  # pyright: ignore[reportArgumentType]
        for name, kind in kinds.items()
        if name != key and kind in names
    )
    renamed = {old: new for old, new in RENAMED.items() if old in kinds}
    return table.with_columns(lists + numbers).rename(renamed | {key: "id"}), fields, name
