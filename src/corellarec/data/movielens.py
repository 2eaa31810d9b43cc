"""MovieLens in its official layout: 100K (``u.data``) and 1M (``ratings.dat``).

Source: Harper and Konstan 2015, https://doi.org/10.1145/2827872
"""

import polars as pl

from corellarec.data.raw import Field, Folder, RawLog, read_delimited, to_number
from corellarec.errors import DataError

# The order of the 19 genre flags in u.item, as u.genre lists it.
GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary",
    "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi",
    "Thriller", "War", "Western",
)  # fmt: skip
USER_FIELDS = (Field("gender"), Field("age"), Field("occupation"))
ITEM_FIELDS = (Field("year"), Field("genres", multi=True))


def read_movielens(folder: Folder) -> RawLog:
    """Read MovieLens-100K or -1M from its official directory or zip.

    Raises:
        DataError: If a file is missing or a line malformed.
    """
    if folder.find("u.data"):
        return _read_100k(folder)
    if folder.find("ratings.dat"):
        return _read_1m(folder)
    raise DataError(
        f"{folder.path} holds neither u.data (MovieLens-100K) nor ratings.dat (MovieLens-1M): "
        "point data.path at the official directory or zip, or set data.source"
    )


def with_year(title: str = "title") -> pl.Expr:
    """The four-digit year at the end of ``Heat (1995)``, or null."""
    return pl.col(title).str.extract(r"\((\d{4})\)\s*$").alias("year")


def _table(folder: Folder, file: str, separator: str, columns: str) -> pl.DataFrame:
    path = folder.find(file)
    if path is None:
        raise DataError(f"{folder.path} has no {file}: the official archive holds it")
    return read_delimited(
        folder.read(path),
        name=file,
        separator=separator,
        columns=columns.split(),
        encoding="latin-1",
    )


def _ratings(folder: Folder, file: str, separator: str) -> pl.DataFrame:
    table = _table(folder, file, separator, "user item rating time")
    table = to_number(table, "rating", pl.Float64, file)
    return to_number(table, "time", pl.Int64, file)


def _read_100k(folder: Folder) -> RawLog:
    facts = "id title released video_release imdb_url"
    flags = [f"genre{i}" for i in range(len(GENRES_100K))]
    items = _table(folder, "u.item", "|", f"{facts} {' '.join(flags)}")
    genres = pl.concat_list(
        pl.when(pl.col(flag) == "1").then(pl.lit(genre))
        for flag, genre in zip(flags, GENRES_100K, strict=True)
    ).list.drop_nulls()
    return RawLog(
        rows=_ratings(folder, "u.data", "\t"),
        users=_table(folder, "u.user", "|", "id age gender occupation zip_code"),
        items=items.select("id", "title", with_year(), genres.alias("genres"), "line"),
        user_fields=USER_FIELDS,
        item_fields=ITEM_FIELDS,
    )


def _read_1m(folder: Folder) -> RawLog:
    items = _table(folder, "movies.dat", "::", "id title genres")
    return RawLog(
        rows=_ratings(folder, "ratings.dat", "::"),
        users=_table(folder, "users.dat", "::", "id gender age occupation zip_code"),
        items=items.with_columns(with_year(), pl.col("genres").str.split("|")),
        user_fields=USER_FIELDS,
        item_fields=ITEM_FIELDS,
    )
