"""The first rows of a table of your own, and the settings with which it is read."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from corellarec.base.errors import DataError
from corellarec.base.frames import readable
from corellarec.config import DataConfig
from corellarec.data.files import ending
from corellarec.data.row_files import delimited_file, header_of, read_lines
from corellarec.data.sources.scan import JSON_LINES, SEPARATORS
from corellarec.data.unpacked import check_unpacked

SAMPLE_ROWS = 2000
SHAPE_ROWS = 50  # that show separator and header
DECIMAL_COMMA = r"^\D{0,3}\d[\d.]*,\d{1,2}\D{0,3}$"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Sample:
    """The first rows of a file.

    Args:
        path: The file.
        rows: Its first rows.
        settings: Where it is and how it is read, as in the TOML file.
        named: Whether the file names its columns; else they are ``column_1``, ``column_2`` ...
    """

    path: Path
    rows: pl.DataFrame
    settings: dict[str, Any]
    named: bool = True

    @property
    def name(self) -> str:
        """The file's name without its endings, in lower case."""
        return self.path.name.partition(".")[0].lower()

    def lacks(self, what: str, remedy: str) -> DataError:
        """The error of a column that is not there."""
        found = ", ".join(self.rows.columns)
        return DataError(f"{self.path}: no column looks like {what}; {remedy}; found: {found}")


def is_table(path: Path) -> bool:
    """Whether a file's name ends as a table's."""
    return ending(path) in {".parquet", *SEPARATORS, *JSON_LINES}


def look(path: Path) -> Sample:
    """The first rows of a file; lines that have more or fewer values than the first are left out.

    Raises:
        DataError: If it is damaged.
    """
    kind, settings = ending(path), {"files": str(path)}
    with readable(path):
        check_unpacked(path, DataConfig().max_unpacked_mb)
        if kind == ".parquet":
            rows = pl.scan_parquet(path, glob=False).head(SAMPLE_ROWS).collect()
            return Sample(path, rows, settings)
        if kind in JSON_LINES:
            scanned = pl.scan_ndjson(path, infer_schema_length=SAMPLE_ROWS)
            return Sample(path, scanned.head(SAMPLE_ROWS).collect(), settings)
        encoding = {"encoding": name} if (name := _encoding(path)) else {}
        lines = list(islice(read_lines(path, **encoding), SAMPLE_ROWS + 1))
    return _text(path, lines, settings | encoding)


def _text(path: Path, lines: list[str], settings: dict[str, Any]) -> Sample:
    usual = SEPARATORS[ending(path)]
    separator = _separator(lines[:SHAPE_ROWS], usual)
    if separator != usual:
        settings["separator"] = separator
    content, header = BytesIO("".join(lines).encode("utf-8", "replace")), None
    shape = _split(lines[:SHAPE_ROWS], separator)
    if not _names_columns(shape):
        header = [f"column_{number + 1}" for number in range(len(shape[0]))]
        settings["header"] = header
    names = header or header_of(content, separator)
    columns = {name: name for name in names if name and names.count(name) == 1}
    if not columns:
        return Sample(path, pl.DataFrame(), settings)
    file = delimited_file(
        content, name=path.name, separator=separator, columns=columns, header=header
    )
    batch = next(file.slow(), file.fast.head(0).collect().with_columns(line=None, problem=None))
    rows = batch.filter(pl.col("problem").is_null()).drop("line", "problem")
    rows = rows.select(pl.all().replace("", None))
    if any(_mostly(column, DECIMAL_COMMA) or _some_commas(column) for column in rows):
        settings["decimal"] = ","
    return Sample(path, rows, settings, named=header is None)


def _mostly(column: pl.Series, pattern: str) -> bool:
    text = column.drop_nulls()
    text = text.filter(text != "").str.strip_chars()
    return bool(len(text)) and float(text.str.contains(pattern).mean()) > 0.5  # pyright: ignore[reportArgumentType]


def _some_commas(column: pl.Series) -> bool:
    """Whether a column holds numbers alone, some of which have a decimal comma: 4 and 4,5."""
    text = column.drop_nulls().str.strip_chars()
    commas = text.filter(text.str.contains(r"^\d+,\d{1,2}$"))
    return len(commas) > len(text) / 10 and bool(text.str.contains(r"^\d+(,\d{1,2})?$").all())


def _encoding(path: Path) -> str | None:
    """What a file's first 100,000 lines are probably in, if it is not UTF-8."""
    if ending(path) == path.suffix.lower():
        with path.open("rb") as file:
            if file.read(2) in UTF_16:
                return "utf-16"
    if not any("\ufffd" in line for line in islice(read_lines(path), 100_000)):
        return None
    # Bytes that are control characters in latin-1 are signs such as the euro's in cp1252.
    signs = re.compile("[\x80-\x9f]")
    lines = islice(read_lines(path, "latin-1"), 100_000)
    return "cp1252" if any(signs.search(line) for line in lines) else "latin-1"


def _separator(lines: Sequence[str], usual: str) -> str:
    """What splits most lines into as many values as the first; of several, into the most."""

    def fit(separator: str) -> tuple[float, int]:
        widths = [len(row) for row in _split(lines, separator)]
        if not widths or widths[0] == 1:
            return 0.0, 1
        return round(widths.count(widths[0]) / len(widths), 1), widths[0]

    return max((usual, "::", ",", ";", "\t", "|"), key=fit)


def _split(lines: Sequence[str], separator: str) -> list[list[str]]:
    if len(separator) > 1:
        return [line.rstrip("\r\n").split(separator) for line in lines]
    try:
        return [row for row in csv.reader(lines, delimiter=separator) if row]
    except csv.Error:
        return []


def _names_columns(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row names columns: none of its values looks as those below it do."""
    if len(rows) < 2:
        return True
    for place, name in enumerate(rows[0]):
        below = [row[place] for row in rows[1:] if place < len(row)]
        shape = _shape(name)
        if "0" in shape and 2 * sum(_shape(value) == shape for value in below) >= len(below):
            return False
    return True


def _shape(value: str) -> str:
    """A number as ``0``, and other text with its digits as ``0``: ``tt0123`` is ``tt0``."""
    value = value.strip().lstrip("\ufeff")
    if re.fullmatch(r"[+-]?\d[\d.,]*", value):
        return "0"
    return re.sub(r"\d+", "0", value)
