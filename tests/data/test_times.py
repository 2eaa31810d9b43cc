from datetime import date, datetime, timedelta, timezone
from datetime import time as time_of_day

import polars as pl
import pytest

from corellarec.base.errors import DataError
from corellarec.data.times import SECOND, time_parser

NOON = 1_500_033_600  # 2017-07-14 12:00 UTC


@pytest.mark.parametrize(
    ("value", "unit", "seconds"),
    [
        (NOON, "s", NOON),
        (NOON * 1000, "ms", NOON),
        (NOON * 10**9, "ns", NOON),
        (NOON + 0.5, "s", NOON + 0.5),
        (str(NOON), "s", NOON),
        (" 2017-07-14 12:00 ", None, NOON),
        (datetime(2017, 7, 14, 12), None, NOON),
        (datetime(2017, 7, 14, 14, tzinfo=timezone(timedelta(hours=2))), None, NOON),
        (date(2017, 7, 14), None, NOON - 12 * 3600),
    ],
)
def test_times_of_every_type(value, unit, seconds):
    table = pl.DataFrame({"time": [value, None]})
    parse, found = time_parser(table, "auto")
    assert found == unit
    assert table.select(parse(pl.col("time")))["time"].to_list() == [seconds * SECOND, None]


def test_fractions_after_whole_numbers_are_read_where_that_is_allowed():
    table = pl.DataFrame({"time": ["100", "100.5"]})
    for lenient, expected in ((False, None), (True, 100_500_000)):
        parse, _ = time_parser(table[:1], "s", lenient=lenient)
        assert table.select(parse(pl.col("time")))["time"][1] == expected


@pytest.mark.parametrize("value", [time_of_day(12), timedelta(hours=1)])
def test_what_is_no_moment_is_refused(value):
    with pytest.raises(DataError, match="the column of times holds"):
        time_parser(pl.DataFrame({"time": [value]}), "auto")
