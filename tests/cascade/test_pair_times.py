"""Times in the tables that a cascade is given."""

import polars as pl
import pytest

from corellarec.cascade.tables import read_times

NOON = 881_236_800_000_000  # 1997-12-04, 12:00 UTC, 13:00 in Berlin


@pytest.mark.parametrize("times", [["881236800"], [881236800], [881236800.0], ["1997-12-04 13:00"]])
def test_numbers_count_in_utc_whatever_the_zone(times):
    found = read_times(pl.DataFrame({"time": times}), "pairs", 1, "Europe/Berlin")
    assert found.to_list() == [NOON]
