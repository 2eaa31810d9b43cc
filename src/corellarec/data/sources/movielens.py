"""MovieLens in its official layouts: 100K, 1M, 10M, 20M, 25M, 32M and latest-small.

Source: Harper and Konstan 2015, https://doi.org/10.1145/2827872
"""

import polars as pl

from corellarec.base.errors import DataError
from corellarec.base.frames import readable
from corellarec.data.raw import NO_USERS, Field, Folder, RawLog
from corellarec.data.row_files import RowFile, delimited_file

# The order of the 19 genre flags in u.item, as u.genre lists it.
GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary",
    "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi",
    "Thriller", "War", "Western",
)  # fmt: skip
ROW = ("user", "item", "rating", "timestamp")
USER_FIELDS = (
    Field("gender"),
    Field("age"),
    Field("occupation"),
    Field("zip_prefix"),
)
ITEM_FIELDS = (Field("year"), Field("genres", "multi"))
RATINGS_CSV = ["userId", "movieId", "rating", "timestamp"]
MOVIES_CSV = ["movieId", "title", "genres"]
HIGHEST = 5  # rating


def is_movielens(folder: Folder) -> bool:
    """Whether a folder holds MovieLens in one of its layouts, by names, columns and ratings."""
    if folder.find("u.data"):
        return (
            _has_ratings(folder, "u.data", "\t")
            and _has_columns(folder, "u.item", "|", 5 + len(GENRES_100K))
            and _has_columns(folder, "u.user", "|", 5)
        )
    if folder.find("ratings.dat"):
        users = not folder.find("users.dat") or _has_columns(folder, "users.dat", "::", 5)
        movies = _has_columns(folder, "movies.dat", "::", 3)
        return users and movies and _has_ratings(folder, "ratings.dat", "::")
    return (
        _header(folder, "ratings.csv") == RATINGS_CSV
        and _header(folder, "movies.csv") == MOVIES_CSV
        and _has_ratings(folder, "ratings.csv", ",")
    )


def _head(folder: Folder, file: str) -> list[str]:
    path = folder.find(file)
    return folder.head(path) if path else []


def _header(folder: Folder, file: str) -> list[str]:
    return next(iter(_head(folder, file)), "").removeprefix("\ufeff").split(",")


def _has_columns(folder: Folder, file: str, separator: str, columns: int) -> bool:
    """Whether there is such a file, and half of its first lines or more have so many values."""
    lines = _head(folder, file)
    fit = sum(line.count(separator) + 1 == columns for line in lines)
    return folder.find(file) is not None and fit >= len(lines) / 2


def _has_ratings(folder: Folder, file: str, separator: str) -> bool:
    """Whether a file has four columns, the third with ratings of five stars at most."""
    rows = [line.split(separator) for line in _head(folder, file)]
    ratings = pl.Series([row[2] for row in rows if len(row) == 4], dtype=pl.String)
    above = (ratings.cast(pl.Float64, strict=False) > HIGHEST).sum()
    return len(ratings) >= len(rows) / 2 and above <= len(ratings) / 100


def read_movielens(folder: Folder) -> RawLog:
    """Read MovieLens from its official directory or zip.

    Raises:
        DataError: If a file is missing, or a line of the users or items malformed.
    """
    if folder.find("u.data"):
        return _read_100k(folder)
    if folder.find("ratings.dat"):
        return _read_dat(folder)
    if folder.find("ratings.csv"):
        return _read_csv(folder)
    raise DataError(f"{folder.path} has no ratings of MovieLens (u.data, ratings.dat, ratings.csv)")


def with_year(title: str = "title") -> pl.Expr:
    """The four-digit year at the end of ``Heat (1995)``, or null."""
    return pl.col(title).str.extract(r"\((\d{4})\)\s*$").alias("year")


def _zip_prefix() -> pl.Expr:
    """The first character of the zip code, a region: longer prefixes are few users' own."""
    return pl.col("zip_code").str.slice(0, 1).alias("zip_prefix")


def _path(folder: Folder, file: str) -> str:
    path = folder.find(file)
    if path is None:
        raise DataError(f"{folder.path} has no {file}: the official archive holds it")
    return path


def _table(folder: Folder, file: str, separator: str, columns: str) -> pl.DataFrame:
    """A small table, all text; these files predate UTF-8, except for 10M's."""
    content, names = folder.read(_path(folder, file)), columns.split()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    lines = enumerate(text.replace("\r\n", "\n").split("\n"), start=1)
    rows = [(number, line.split(separator)) for number, line in lines if line]
    for number, row in rows:
        if len(row) != len(names):
            raise DataError(
                f"{file}, line {number}: {len(row)} values where {len(names)} are expected "
                f"({separator.join(names)})"
            )
    return pl.DataFrame(
        [row for _, row in rows], schema=dict.fromkeys(names, pl.String), orient="row"
    )


def _ratings(folder: Folder, file: str, separator: str) -> tuple[RowFile]:
    return (
        delimited_file(
            folder.source(_path(folder, file)),
            name=file,
            separator=separator,
            columns={"user": 0, "item": 1, "value": 2, "time": 3},
            header=None if file.endswith(".csv") else ROW,
            quoted=False,
        ),
    )


def _read_100k(folder: Folder) -> RawLog:
    facts = "id title released video_release imdb_url"
    flags = [f"genre{i}" for i in range(len(GENRES_100K))]
    items = _table(folder, "u.item", "|", f"{facts} {' '.join(flags)}")
    genres = pl.concat_list(
        pl.when(pl.col(flag) == "1").then(pl.lit(genre))
        for flag, genre in zip(flags, GENRES_100K, strict=True)
    ).list.drop_nulls()
    users = _table(folder, "u.user", "|", "id age gender occupation zip_code")
    return RawLog(
        files=_ratings(folder, "u.data", "\t"),
        users=users.with_columns(_zip_prefix()),
        items=items.select("id", "title", with_year(), genres.alias("genres")),
        user_fields=USER_FIELDS,
        item_fields=ITEM_FIELDS,
    )


def _read_dat(folder: Folder) -> RawLog:
    """1M and 10M, which has no users; users with other columns have no features."""
    items = _table(folder, "movies.dat", "::", "id title genres")
    users, fields = NO_USERS, ()
    if folder.find("users.dat") and _has_columns(folder, "users.dat", "::", 5):
        users = _table(folder, "users.dat", "::", "id gender age occupation zip_code")
        users, fields = users.with_columns(_zip_prefix()), USER_FIELDS
    return RawLog(
        files=_ratings(folder, "ratings.dat", "::"),
        users=users,
        items=items.with_columns(with_year(), _genres()),
        user_fields=fields,
        item_fields=ITEM_FIELDS,
    )


def _read_csv(folder: Folder) -> RawLog:
    """20M, 25M, 32M, latest and latest-small."""
    with readable("movies.csv"):
        items = pl.read_csv(folder.source(_path(folder, "movies.csv")), infer_schema=False)
        items = items.select(pl.col("movieId").alias("id"), "title", "genres")
    return RawLog(
        files=_ratings(folder, "ratings.csv", ","),
        users=NO_USERS,
        items=items.with_columns(with_year(), _genres()),
        user_fields=(),
        item_fields=ITEM_FIELDS,
    )


def _genres() -> pl.Expr:
    listed = pl.col("genres").str.split("|").list
    return listed.set_difference(pl.lit(["(no genres listed)"])).alias("genres")
