"""Rows in order, whatever parts they are sorted in and wherever they lie."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corellarec.data import order
from corellarec.data.order import in_order
from corellarec.data.rows import Rows

ids = st.integers(0, 5)
rows = st.lists(st.tuples(ids, ids, st.integers(1, 5), st.integers(0, 3)), min_size=1, max_size=40)


def read(found, folder):
    """As ``read_rows`` gives them: numbers of ids in an order of their own."""
    frame = pl.DataFrame(
        found,
        schema={"user": pl.UInt32, "item": pl.UInt32, "value": pl.Float32, "time": pl.Int64},
        orient="row",
    ).lazy()
    if folder:
        frame.sink_parquet(folder / "rows.parquet")
        frame = pl.scan_parquet(folder / "rows.parquet")
    users = pl.Series([f"u{5 - i}" for i in range(6)])
    items = pl.Series([f"i{i * 7 % 6}" for i in range(6)])
    return Rows(frame, users, items, len(found), 0, None, "s"), users, items


@settings(max_examples=150, deadline=None)
@given(rows, st.sampled_from([1, 3, 1000]), st.booleans(), st.booleans(), st.integers(0, 3))
def test_rows_are_sorted_and_counted_as_a_plain_sort_does(
    tmp_path_factory, found, part, on_disk, positive, core
):
    folder = tmp_path_factory.mktemp("rows") if on_disk else None
    given, users, items = read(found, folder)
    expected = {}
    for user, item, value, time in sorted(found):  # of equal rows the highest value
        if value >= 2 or not positive:
            expected[users[user], time, items[item]] = float(value)
    negative = sum(row[2] < 2 for row in found) if positive else 0
    repeated = len(found) - negative - len(expected)
    titled = [name for name in items if name != "i3"]
    expected = {key: value for key, value in expected.items() if key[2] != "i3"}
    untitled = len(found) - negative - repeated - len(expected)
    before = len(expected)
    while core:
        kept = {
            key: value
            for key, value in expected.items()
            if sum(other[0] == key[0] for other in expected) >= core
        }
        if len(kept) == len(expected):
            break
        expected = kept
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "PART", part)
        arguments = (
            given,
            pl.col("value") >= 2 if positive else None,
            pl.Series(titled),
            core,
            0,
        )
        if not expected:
            with pytest.raises(order.DataError, match="nothing is left of the log"):
                in_order(*arguments)
            return
        table, user_ids, item_ids, left_out = in_order(*arguments)
    named = zip(
        user_ids.gather(table["user"]),
        table["time"],
        item_ids.gather(table["item"]),
        table["value"],
        strict=True,
    )
    assert list(named) == [(*key, value) for key, value in sorted(expected.items())]
    assert user_ids.to_list() == sorted({key[0] for key in expected})
    assert item_ids.to_list() == sorted({key[2] for key in expected})
    assert left_out.negative_rows == negative
    assert left_out.duplicate_rows == repeated
    assert left_out.rows_of_untitled_items == untitled
    assert left_out.rows_below_core == before - len(expected)
