"""Times in the tables that a cascade is given."""

import polars as pl
import pytest

from corellarec.base.errors import DataError
from corellarec.cascade.tables import read_times
from corellarec.data.times import TimeText

NOON = 881_236_800_000_000  # 1997-12-04, 12:00 UTC, 13:00 in Berlin


@pytest.mark.parametrize("times", [["881236800"], [881236800], [881236800.0], ["1997-12-04 13:00"]])
def test_numbers_count_in_utc_whatever_the_zone(times):
    found = read_times(pl.DataFrame({"time": times}), "pairs", 1, TimeText(zone="Europe/Berlin"))
    assert found.to_list() == [NOON]


@pytest.mark.parametrize(
    ("form", "times"),
    [
        ("%d/%m/%Y %H:%M", ["04/12/1997 12:00"]),
        ("%d/%m/%Y %H:%M", ["1997-12-04T12:00:00"]),  # as Polars writes it
        ("%d/%m/%Y %H:%M", ["881236800"]),
        ("%Y%m%d%H%M", ["199712041200"]),  # no number of seconds
        ("%Y%m%d%H%M", ["881236800"]),
    ],
)
def test_text_is_written_as_the_logs_own_or_in_a_known_format(form, times):
    found = read_times(pl.DataFrame({"time": times}), "pairs", 1, TimeText(form))
    assert found.to_list() == [NOON]


def test_text_in_the_logs_format_is_of_its_zone():
    table = pl.DataFrame({"time": ["04.12.1997 13:00"]})
    text = TimeText("%d.%m.%Y %H:%M", "Europe/Berlin")
    assert read_times(table, "pairs", 1, text).to_list() == [NOON]


@pytest.mark.parametrize("first", ["04/12/1997", "12/31/1997"])
def test_text_in_another_format_than_the_logs_is_refused(first):
    table = pl.DataFrame({"time": [first, "1997-12-04", "13/13/1997"]})
    row, time = (12, "1997-12-04") if first < "1" else (11, first)
    message = f'row {row}: time {time!r} cannot .*: the log\'s have .*time_format = "%d/%m/%Y"$'
    with pytest.raises(DataError, match=message):
        read_times(table, "pairs", 11, TimeText("%d/%m/%Y"))
