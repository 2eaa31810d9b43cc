"""Times of every kind as microseconds since 1970."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl

from corellarec.base.errors import ConfigError, DataError
from corellarec.base.frames import first_line
from corellarec.config import DataConfig

SECOND = 1_000_000  # microseconds
FIRST, LAST = -62_135_596_800 * SECOND, 253_402_300_800 * SECOND - 1  # years 1 to 9999
UNITS = {"s": SECOND, "ms": 1_000, "us": 1, "ns": 0.001}
TIME_FORMATS = (
    "%Y-%m-%dT%H:%M:%S%.f%#z",
    "%Y-%m-%dT%H:%M%#z",
    "%Y-%m-%d %H:%M:%S%.f%#z",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%d",
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d",
)
# Not tried unless told: 3/4/2024 may be either.
DAY_OR_MONTH_FIRST = tuple(
    date + time
    for date in ("%d/%m/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m/%d/%Y", "%m-%d-%Y")
    for time in ("", " %H:%M", " %H:%M:%S")
)


@dataclass(frozen=True)
class TimeText:
    """How a log's own times are written.

    Args:
        form: Format of times that are text; None where it is one of ``TIME_FORMATS``.
        zone: Zone of times that name none; UTC by default.
    """

    form: str | None = None
    zone: str | None = None


UTC_TEXT = TimeText()


def times_of(config: DataConfig) -> TimeText:
    """How the times of a log's own file are written."""
    file = config.interactions
    return TimeText(file.time_format, file.time_zone) if file else UTC_TEXT


def time_parser(
    sample: pl.DataFrame,
    time_unit: str,
    *,
    time_format: str | None = None,
    time_zone: str | None = None,
    lenient: bool = False,
) -> tuple[Callable[[pl.Expr], pl.Expr], str | None]:
    """How to turn the column ``time`` into microseconds since 1970, going by a sample.

    Args:
        sample: A table with the column ``time``: numbers, dates, or text of either.
        time_unit: Unit of numbers: ``s``, ``ms``, ``us``, ``ns``, or ``auto`` to go by their size.
        time_format: Format of times that are text; by default it is one of ``TIME_FORMATS``.
        time_zone: Zone of dates, and of times that are text, which name none; UTC by default. An
            hour that a clock shows twice is the first of both; one that it leaves out is read an
            hour later.
        lenient: Whether to read fractions even where the sample holds whole numbers alone.

    Returns:
        What turns an expression of times into one of int64, null where it cannot be read; and the
        unit of numbers, None for dates.

    Raises:
        ConfigError: If there is no such ``time_zone``, or no such ``time_format``.
        DataError: If the column holds neither numbers nor dates nor text, or numbers where there
            is a ``time_zone``.
    """
    if time_zone:
        _check_zone(time_zone)
    times = sample["time"].drop_nulls()
    if time_format and times.dtype in (pl.String, pl.Null):
        _check_format(time_format)
        return _format_parser(time_format, time_zone), None
    is_date = times.dtype in (pl.Date, pl.Datetime)
    if not (is_date or times.dtype.is_numeric() or times.dtype in (pl.String, pl.Null)):
        raise DataError(f"the column of times holds {times.dtype}: give dates, or numbers")
    if is_date:
        zoned = isinstance(times.dtype, pl.Datetime) and times.dtype.time_zone
        zone = None if zoned else time_zone
        return lambda time: _in_range(_local(time.cast(times.dtype), zone).dt.epoch("us")), None
    if times.dtype == pl.String:
        times = times.str.strip_chars()
        times = times.filter(times != "")
        numbers = times.cast(pl.Float64, strict=False)
        if numbers.null_count() > len(times) / 2:
            return _date_parser(times, time_zone), None
        whole = times.cast(pl.Int64, strict=False).null_count() == 0
    else:
        numbers, whole = times.cast(pl.Float64), times.dtype.is_integer()
    if time_zone and len(times):
        raise DataError(
            f"the times are numbers ({times[0]}), which count from 1970 in UTC: leave out "
            "data.interactions.time_zone"
        )
    if time_unit == "auto":
        numbers = numbers.filter(numbers.is_finite())
        size = abs(numbers.median() or 0.0)  # pyright: ignore[reportArgumentType, reportCallIssue]
        # 1e11 seconds is the year 5138, 1e11 milliseconds is 1973.
        time_unit = next(
            unit
            for unit, limit in (("s", 1e11), ("ms", 1e14), ("us", 1e17), ("ns", float("inf")))
            if size < limit
        )

    def parse(time: pl.Expr) -> pl.Expr:
        number = time.cast(pl.Int64, strict=False)
        if time_unit == "ns":
            exact = number // 1000
        else:
            factor = int(UNITS[time_unit])
            exact = _in_range(number, factor) * factor  # else it would overflow
        rounded = (time.cast(pl.Float64, strict=False) * UNITS[time_unit]).round()
        rounded = _in_range(rounded.cast(pl.Int64, strict=False))
        if lenient:
            return pl.coalesce(exact, rounded)
        return exact if whole else rounded

    return parse, time_unit


def read_times(
    table: pl.DataFrame, name: str, first_row: int = 1, text: TimeText = UTC_TEXT
) -> pl.Series:
    """The column ``time`` as microseconds since 1970.

    Args:
        table: It has the column.
        name: What messages call the table.
        first_row: Number of the table's first row, for messages.
        text: How the log's times are written. Where none of the table's is written so, it may
            hold numbers, which count in UTC, or dates in another known format, of the log's zone.

    Raises:
        DataError: If a time is missing or cannot be read.
    """
    times = table["time"]

    def parsed(form: str | None, zone: str | None) -> pl.Series:
        parse, _ = time_parser(
            times.to_frame(), "auto", time_format=form, time_zone=zone, lenient=True
        )
        return times.to_frame().select(parse(pl.col("time"))).to_series()

    is_text = times.dtype == pl.String  # what CSV holds
    form = text.form if is_text else None
    time = parsed(form, text.zone) if form else None
    if time is None or time.null_count() == len(time):
        if is_text:
            numbers = times.cast(pl.Float64, strict=False).null_count() == times.null_count()
        else:
            numbers = times.dtype.is_numeric()
        time = parsed(None, None if numbers else text.zone)
    if time.null_count():
        row = int(time.is_null().arg_true()[0])
        told = f': the log\'s have data.interactions.time_format = "{form}"' if form else ""
        raise DataError(
            f"{name}, row {first_row + row}: time {times[row]!r} cannot be read as a time{told}"
        )
    return time


def fitting_formats(times: pl.Series, formats: Sequence[str]) -> list[str]:
    """Those of the formats in which all times of a text column, but 1 in 100, can be read."""
    times = times.drop_nulls().str.strip_chars()
    times = times.filter(times != "")
    if times.is_empty():
        return []

    def bad(pattern: str) -> int:
        read = times.str.to_datetime(pattern, strict=False, time_zone=_zone(pattern))
        return read.null_count()

    return [pattern for pattern in formats if bad(pattern) <= len(times) / 100]


def _in_range(time: pl.Expr, factor: int = 1) -> pl.Expr:
    """Times, or null where they are in none of the years 1 to 9999; ``factor`` microseconds each.

    Later code, and what reads its files, knows no other years.
    """
    return pl.when(time.is_between(FIRST // factor, LAST // factor)).then(time)


def _date_parser(times: pl.Series, time_zone: str | None) -> Callable[[pl.Expr], pl.Expr]:
    def parse(pattern: str) -> pl.Series:
        return times.str.to_datetime(pattern, strict=False, time_zone=_zone(pattern))

    found = min(TIME_FORMATS, key=lambda pattern: parse(pattern).null_count())
    return _format_parser(found, time_zone)


def _format_parser(pattern: str, time_zone: str | None) -> Callable[[pl.Expr], pl.Expr]:
    named = _zone(pattern)

    def parse(time: pl.Expr) -> pl.Expr:
        text = time.str.strip_chars()
        read = text.str.to_datetime(pattern, strict=False, time_unit="us", time_zone=named)
        return _in_range((read if named else _local(read, time_zone)).cast(pl.Int64))

    return parse


def _check_format(pattern: str) -> None:
    try:
        pl.Series([], dtype=pl.String).str.to_datetime(pattern, strict=False)
    except pl.exceptions.PolarsError as error:
        raise ConfigError(
            f"data.interactions.time_format = {pattern!r}: {first_line(error)}"
        ) from error


def _check_zone(name: str) -> None:
    try:
        pl.Series([0], dtype=pl.Datetime("us")).dt.replace_time_zone(name)
    except pl.exceptions.PolarsError as error:
        raise ConfigError(
            f"data.interactions.time_zone: no time zone is called {name!r}; give one such as "
            "Europe/Berlin"
        ) from error


def _local(time: pl.Expr, zone: str | None) -> pl.Expr:
    """Dates and times of a zone's clocks as UTC."""
    if zone is None:
        return time
    time = time.cast(pl.Datetime("us"))

    def read(time: pl.Expr) -> pl.Expr:
        return time.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")

    # The hour that clocks leave out in spring.
    return pl.coalesce(read(time), read(time + pl.duration(hours=1))).dt.convert_time_zone("UTC")


def _zone(pattern: str) -> str | None:
    return "UTC" if any(offset in pattern for offset in ("%z", "%:z", "%#z", "%+")) else None
