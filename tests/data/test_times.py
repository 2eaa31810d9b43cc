from datetime import UTC, date, datetime, timedelta, timezone
from datetime import time as time_of_day

import polars as pl
import pytest

from corellarec.base.errors import ConfigError, DataError
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
        ("2017-07-14T14:00:00+02:00", None, NOON),
        ("2017-07-14 07:00:00.500-0500", None, NOON + 0.5),
        ("2017-07-14T12:00:00Z", None, NOON),
        ("2017-07-14T12:00Z", None, NOON),
        ("2017-07-14T12:00", None, NOON),
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


def read(times, **settings):
    table = pl.DataFrame({"time": times})
    parse, _ = time_parser(table, "auto", **settings)
    return [
        None if time is None else datetime.fromtimestamp(time / SECOND, UTC).isoformat()
        for time in table.select(parse(pl.col("time")))["time"]
    ]


def test_offsets_may_be_mixed():
    times = ["2024-05-01T12:00:00+02:00", "2024-05-01T10:00:00Z", "2024-05-01T03:00:00-07:00"]
    assert read(times) == ["2024-05-01T10:00:00+00:00"] * 3
    assert read(times, time_zone="Asia/Tokyo") == ["2024-05-01T10:00:00+00:00"] * 3
    assert read([*times, "2024-05-01T12:00:00"])[3] is None  # of no known zone: a bad row


def test_times_of_a_named_zone():
    zone = {"time_zone": "Europe/Berlin"}
    assert read(["2024-01-15 12:00:00", "2024-07-15 12:00:00"], **zone) == [
        "2024-01-15T11:00:00+00:00",
        "2024-07-15T10:00:00+00:00",
    ]
    # Twice in autumn: the first; left out in spring: an hour later.
    assert read(["2024-10-27 02:30:00", "2024-03-31 02:30:00"], **zone) == [
        "2024-10-27T00:30:00+00:00",
        "2024-03-31T01:30:00+00:00",
    ]
    assert read([datetime(2024, 7, 15, 12)], **zone) == ["2024-07-15T10:00:00+00:00"]
    assert read([date(2024, 7, 15)], **zone) == ["2024-07-14T22:00:00+00:00"]
    assert read(["15.07.2024 12:00"], time_format="%d.%m.%Y %H:%M", **zone) == [
        "2024-07-15T10:00:00+00:00"
    ]
    for form in ("%Y-%m-%dT%H:%M%z", "%Y-%m-%dT%H:%M%:z", "%+"):  # an offset is no zone's clock
        time = "2024-07-15T12:00:00-03:00" if form == "%+" else "2024-07-15T12:00-03:00"
        assert read([time], time_format=form, **zone) == ["2024-07-15T15:00:00+00:00"]
    here = datetime(2024, 7, 15, 12, tzinfo=timezone(timedelta(hours=-3)))
    assert read([here], **zone) == ["2024-07-15T15:00:00+00:00"]


def test_numbers_have_no_zone():
    with pytest.raises(DataError, match=r"numbers \(1500033600\), .* leave out data\.inter"):
        read([NOON], time_zone="Europe/Berlin")


def test_a_format_of_no_moment_is_refused():
    with pytest.raises(ConfigError, match=r"time_format = '%Y%m%d%H': .* both hour and minute"):
        read(["2024050112"], time_format="%Y%m%d%H")
