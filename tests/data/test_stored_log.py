"""Tables of a log that were changed after it was written."""

import polars as pl
import pytest

from corellarec.base.errors import ArtifactError
from corellarec.data.preparation import read_preparation
from corellarec.data.stored_log import read_tables


@pytest.fixture
def changed(prepared, tmp_path):
    """Reads the prepared log with one table changed."""

    def read(name, change):
        for table in ("rows", "users", "items"):
            frame = pl.read_parquet(prepared / f"{table}.parquet")
            frame = change(frame) if table == name else frame
            frame.write_parquet(tmp_path / f"{table}.parquet")
        return read_tables(tmp_path, read_preparation(prepared).features)

    return read


def test_an_unchanged_log_is_read(changed, log):
    rows, users, items = changed("rows", lambda frame: frame)
    assert rows.equals(log.rows)
    assert users.equals(log.users)
    assert items.equals(log.items)


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("rows", "user", pl.col("user") + 1),
        ("rows", "user", pl.col("user").cast(pl.Int64)),
        ("rows", "user", pl.col("user").reverse()),
        ("rows", "item", pl.lit(-1, pl.Int32)),
        ("rows", "item", pl.lit(None, pl.Int32)),
        ("rows", "label", pl.lit(2, pl.Int8)),
        ("rows", "level", pl.lit(99, pl.Int8)),
        ("rows", "level", pl.lit("x")),
        ("rows", "split", pl.lit(4, pl.Int8)),
        ("rows", "time", pl.lit(2**62).cast(pl.Datetime("us", "UTC"))),
        ("rows", "time", pl.col("time").dt.replace_time_zone(None)),
        ("users", "id", pl.lit("x")),
        ("users", "id", pl.int_range(pl.len())),
        ("users", "train_rows", pl.lit(-1, pl.Int64)),
        ("users", "train_rows", pl.lit(10**6, pl.Int64)),
        ("users", "age_code", pl.lit(99, pl.Int32)),
        ("users", "age_code", pl.lit(-1, pl.Int32)),
        ("users", "age_code", pl.lit(None, pl.Int32)),
        ("items", "title", pl.lit(5)),
        ("items", "genres_code", pl.lit(1, pl.Int32)),
        ("items", "genres_code", pl.col("genres_code").arr.to_list()),
    ],
)
def test_a_value_that_no_log_has_is_refused(changed, table, column, value):
    with pytest.raises(ArtifactError, match=rf"{table}\.parquet: .*: delete ") as error:
        changed(table, lambda frame: frame.with_columns(value.alias(column)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("table", "column"),
    [("rows", "time"), ("users", "train_rows"), ("items", "title"), ("items", "genres_code")],
)
def test_a_missing_column_is_named(changed, table, column):
    with pytest.raises(ArtifactError, match=rf"{table}\.parquet: .*{column[:5]}"):
        changed(table, lambda frame: frame.drop(column))


@pytest.mark.parametrize("table", ["users", "items"])
def test_an_empty_table_is_refused(changed, table):
    with pytest.raises(ArtifactError, match="has no rows"):
        changed(table, lambda frame: frame.clear())
