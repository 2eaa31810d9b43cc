"""Your own log, from files or a database, as the configuration describes it."""

import dataclasses
import html
import re
from pathlib import Path
from typing import Literal

import polars as pl

from corellarec.base.errors import DataError
from corellarec.base.frames import DAMAGE, check_plain, first_line, inner_type, readable
from corellarec.base.inputs import check_file
from corellarec.config import (
    DataConfig,
    FeaturesConfig,
    InteractionsConfig,
    ItemsConfig,
)
from corellarec.data.features import check_fields
from corellarec.data.raw import NO_USERS, Field, RawLog
from corellarec.data.row_files import RowFile, ValueKind, plain_number, rating, readable_batches
from corellarec.data.rows import read_rows
from corellarec.data.sources.scan import own_files, scan_table
from corellarec.data.times import time_parser
from corellarec.data.unpacked import check_unpacked

MISSING = ("", "na", "n/a", "nan", "null", "none", "-", "?")
CODES = "AUD|BRL|CAD|CHF|CNY|CZK|DKK|EUR|GBP|HUF|INR|JPY|KRW|MXN|NOK|NZD|PLN|RUB|SEK|TRY|USD|ZAR"
CURRENCY = f"[€$£¥₹]|{CODES}"
AROUND = f"^(?:{CURRENCY}|\\s)+|(?:{CURRENCY}|\\s)+$"  # a number; \\s knows every space
OFTEN = 0.5
MOST_SHOWN = 20  # values in a message
TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
YES, NO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")


def read_tables(config: DataConfig) -> RawLog:
    """Read the log that ``config.interactions``, ``items`` and ``users`` describe.

    Raises:
        ConfigError: If a section cannot be used.
        DataError: If a file or column is missing, or a line of the users or items malformed.
    """
    rows, items, users = config.interactions, config.items, config.users
    assert rows is not None
    assert items is not None
    for file in own_files(config):
        check_file(file)
        with readable(file):
            check_unpacked(file, config.max_unpacked_mb)
    files = _scan_log(rows)
    if rows.positive_values:
        _check_positive_values(files, rows)
    if rows.event:
        _check_events(files, rows)
    warnings: list[str] = []
    return RawLog(
        files=tuple(dataclasses.replace(file, value=_kind(rows)) for file in files),
        users=_features(users, rows, "user", config.time_unit, warnings) if users else NO_USERS,
        items=_features(items, rows, "item", config.time_unit, warnings),
        user_fields=_fields(users) if users else (),
        item_fields=_fields(items),
        labelled=rows.rating is None,
        weighted=rows.event is not None,
        time_unit=config.time_unit,
        time_format=rows.time_format,
        time_zone=rows.time_zone,
        warnings=tuple(warnings),
    )


def read_more_rows(config: InteractionsConfig, path: Path, time_unit: str) -> pl.DataFrame:
    """Interactions of another file, in the columns of one's own log.

    Returns:
        ``user``, ``item`` (str), ``rating`` or ``label`` (float), ``time`` (datetime, UTC).

    Raises:
        DataError: If a column is missing, or a row cannot be read.
    """
    log = config.model_copy(
        update={"files": str(path), "database": None, "query": None, "split": None}
    )
    files = [dataclasses.replace(file, value=_kind(log)) for file in _scan_log(log)]
    rows = read_rows(files, time_unit, 0, log.time_format, log.time_zone).table
    if log.is_implicit:  # a kind of events may have the weight 0
        rows = rows.filter(pl.col("value") > 0).with_columns(value=1.0)
    return rows.select(
        pl.col("user", "item").cast(pl.String),
        pl.col("value").alias("rating" if log.rating else "label"),
        pl.col("time").cast(pl.Datetime("us", "UTC")),
    )


def read_more_items(config: DataConfig, path: Path) -> pl.DataFrame:
    """``id``, ``title`` and features of the items of another file, in the columns of one's own.

    Raises:
        DataError: If a column is missing, or a line malformed.
    """
    assert config.items is not None
    assert config.interactions is not None
    items = config.items.model_copy(update={"files": str(path), "database": None, "query": None})
    return _features(items, config.interactions, "item", config.time_unit, [])


def _scan_log(rows: InteractionsConfig) -> list[RowFile]:
    value = rows.event if rows.is_implicit else rows.rating or rows.label
    columns = {"user": rows.user, "item": rows.item, "value": value, "time": rows.time}
    if rows.split:
        columns["split"] = rows.split
    files = scan_table(rows, columns, "interactions")
    return files if value else [file.all_positive() for file in files]


def _kind(rows: InteractionsConfig) -> ValueKind:
    if rows.event:
        return _event(rows.event_weights)
    return rating(rows.decimal) if rows.rating else _label(rows.positive_values)


def _label(positive_values: tuple[str, ...] | None) -> ValueKind:
    def parse(value: pl.Expr) -> pl.Expr:
        text = value.cast(pl.String).str.strip_chars()
        if positive_values:
            return text.is_in(positive_values)
        text = text.str.to_lowercase()
        return pl.when(text.is_in(YES)).then(1.0).when(text.is_in(NO)).then(0.0)

    hint = "data.interactions.positive_values lists the values of the column that are positive"
    return ValueKind("label", "0 or 1", parse, "" if positive_values else hint)


def _event(weights: dict[str, float]) -> ValueKind:
    def parse(value: pl.Expr) -> pl.Expr:
        text = value.cast(pl.String).str.strip_chars()
        return text.replace_strict(weights, default=None, return_dtype=pl.Float32)

    return ValueKind("event", f"one of {', '.join(weights)}", parse)


def _values_found(files: list[RowFile]) -> list[str]:
    """The distinct values of a log, the most frequent first; none where it is damaged."""
    text = pl.col("value").cast(pl.String).str.strip_chars()
    try:
        counts = pl.concat(file.fast.select(text) for file in files).collect()["value"]
    except DAMAGE:  # which reading the rows will explain
        return []
    return counts.drop_nulls().value_counts(sort=True)["value"].to_list()


def _listed(values: list[str]) -> str:
    return ", ".join(values[:MOST_SHOWN]) + (" ..." if len(values) > MOST_SHOWN else "")


def _check_positive_values(files: list[RowFile], rows: InteractionsConfig) -> None:
    """Refuse a positive value that no row has."""
    found = _values_found(files)
    for value in rows.positive_values or ():
        if found and value not in found:
            raise DataError(
                f"data.interactions.positive_values: no row has {value!r} in the column "
                f"{rows.label!r}; found: {_listed(found)}"
            )


def _check_events(files: list[RowFile], rows: InteractionsConfig) -> None:
    """Refuse kinds of events without a weight, and weights of kinds that no row has."""
    found, place = _values_found(files), "data.interactions.event_weights"
    for kind in rows.event_weights:
        if found and kind not in found:
            raise DataError(
                f"{place}: no row has {kind!r} in the column {rows.event!r}; "
                f"found: {_listed(found)}"
            )
    if left := [kind for kind in found if kind not in rows.event_weights]:
        raise DataError(
            f"{place}: no weight for {_listed(left)} in the column {rows.event!r}: give each kind "
            "of event one; rows of weight 0 are left out"
        )


def _template(title: str) -> tuple[str, tuple[str, ...]]:
    """A template with ``{}`` for every column, and the columns."""
    names = tuple(re.findall(r"\{([^{}]+)\}", title))
    return (re.sub(r"\{[^{}]+\}", "{}", title), names) if names else ("{}", (title,))


def _fields(features: FeaturesConfig) -> tuple[Field, ...]:
    return (
        *(Field(name) for name in features.categorical),
        *(Field(name, "multi") for name in features.multi),
        *(Field(name, "numeric") for name in features.numeric),
    )


def _features(
    features: FeaturesConfig,
    interactions: InteractionsConfig,
    side: Literal["user", "item"],
    time_unit: str,
    warnings: list[str],
) -> pl.DataFrame:
    """``id``, the ``title`` of items, and the features: the table of users or items."""
    fields, section = _fields(features), f"{side}s"
    check_fields(fields, section)
    title = features.title if isinstance(features, ItemsConfig) else None
    template, parts = _template(title) if title else ("", ())
    names = dict.fromkeys([*(field.name for field in fields), *parts])
    # The prefix keeps columns of any name apart from the id and the time.
    columns = {"id": features.id or getattr(interactions, side)} | {
        f"column {name}": name for name in names
    }
    own = bool(features.files or features.query)
    if own:
        table = _collect(scan_table(features, columns, section))
    else:
        columns = {"id": columns.pop("id"), "time": interactions.time} | columns
        table = _collect(scan_table(interactions, columns, "interactions"))
        parse, _ = time_parser(
            table,
            time_unit,
            time_format=interactions.time_format,
            time_zone=interactions.time_zone,
            lenient=True,
        )
        first = [pl.col("id").cast(pl.String), parse(pl.col("time")).alias("time")]
        table = table.with_columns(first).sort(*_sort_keys(table), nulls_last=True)
        table = table.unique("id", keep="first", maintain_order=True).drop("time")
    for column, kind in table.schema.items():
        name = column.removeprefix("column ")
        listed = isinstance(kind, pl.List | pl.Array) and name in features.multi
        check_plain(inner_type(kind) if listed else kind, name, f"data.{section}")
    decimal = (features if own else interactions).decimal
    for field in fields:
        if field.kind == "numeric":
            warnings += _not_numbers(table[f"column {field.name}"], decimal, section)
            warnings += _currencies(table[f"column {field.name}"], section)
    made = table.select(
        pl.col("id").cast(pl.String),
        *([_title(template, parts)] if title else []),
        *(_convert(field, table.schema, features.multi, decimal) for field in fields),
    ).filter(pl.col("id").is_not_null())
    return made.with_columns(_readable(made["title"])) if title else made


def _not_numbers(column: pl.Series, decimal: str, section: str) -> list[str]:
    """A warning of what stands in a column of numbers and is none, and not missing either."""
    text = column.cast(pl.String).str.strip_chars()
    lost = text.filter(
        text.is_not_null()
        & ~text.str.to_lowercase().is_in(MISSING)
        & column.to_frame("x").select(_number(pl.col("x"), decimal))["x"].is_null()
    )
    if lost.is_empty():
        return []
    name = column.name.removeprefix("column ")
    remedy = "correct them, or list the column as categorical"
    if lost.str.contains(r"^[^\d]*[\d.]*,\d+[^\d]*$").mean() > OFTEN:  # pyright: ignore[reportOperatorIssue]
        remedy = f'data.{section}.decimal = "," reads decimal commas'
    return [
        f"{len(lost):,} of {len(column):,} values of data.{section}'s numeric column {name!r} are "
        f"no numbers and are taken as missing, such as {lost[0]!r}: {remedy}"
    ]


def _currencies(column: pl.Series, section: str) -> list[str]:
    """A warning of numbers that count different things."""
    if column.dtype != pl.String:
        return []
    text = column.str.strip_chars()
    found = text.str.extract(f"^({CURRENCY})\\s*[-\\d]").fill_null(
        text.str.extract(f"\\d\\s*({CURRENCY})$")
    )
    counts = found.drop_nulls().value_counts(sort=True)
    if counts.height < 2:
        return []
    listed = ", ".join(f"{name} {n:,}" for name, n in counts.iter_rows())
    return [
        f"data.{section}'s numeric column {column.name.removeprefix('column ')!r} has prices in "
        f"{counts.height} currencies ({listed}): they are taken as numbers of one unit; convert "
        "them, or leave the column out"
    ]


def _readable(titles: pl.Series) -> pl.Series:
    """Titles without HTML tags, their entities resolved."""
    marked = titles.str.contains(r"&[#\w]+;|<[a-zA-Z/]").arg_true()
    resolved = [
        html.unescape(TAG.sub(" ", text)).replace("\xa0", " ").strip()
        for text in titles.gather(marked)
    ]
    return titles.clone().scatter(marked, resolved) if resolved else titles


def _sort_keys(table: pl.DataFrame) -> list[pl.Expr]:
    """Every column as something that can be sorted; lists by their text."""
    return [
        pl.col(name).cast(pl.List(pl.String)).list.join("|")
        if isinstance(kind, pl.List | pl.Array)
        else pl.col(name)
        for name, kind in table.schema.items()
    ]


def _title(template: str, names: tuple[str, ...]) -> pl.Expr:
    """The template filled from its columns, or null where all of them are empty."""
    parts = [pl.col(f"column {name}").cast(pl.String).fill_null("") for name in names]
    titled = ~pl.all_horizontal(part == "" for part in parts)
    return pl.when(titled).then(pl.format(template, *parts)).alias("title")


def _number(column: pl.Expr, decimal: str) -> pl.Expr:
    """Numbers, those of text perhaps with a currency's sign or code."""
    text = plain_number(column.cast(pl.String).str.replace_all(AROUND, ""), decimal)
    return column.cast(pl.Float64, strict=False).fill_null(text.cast(pl.Float64, strict=False))


def _convert(field: Field, schema: pl.Schema, separators: dict[str, str], decimal: str) -> pl.Expr:
    column, found = pl.col(f"column {field.name}"), schema[f"column {field.name}"]
    if field.kind == "categorical":
        return column.cast(pl.String).alias(field.name)
    if field.kind == "numeric":
        number = _number(column, decimal) if found == pl.String else column
        return number.cast(pl.Float64, strict=False).alias(field.name)
    if isinstance(found, pl.List | pl.Array):
        listed = column.cast(pl.List(pl.String)).list.unique(maintain_order=True)
        return listed.alias(field.name)
    text = column.cast(pl.String)
    listed = text.str.extract_all(r'"(?:[^"\\]|\\.)*"').list.eval(pl.element().str.strip_chars('"'))
    parts = text.str.split(separators[field.name]).list.eval(pl.element().str.strip_chars())
    tokens = pl.when(text.str.starts_with("[")).then(listed).otherwise(parts)
    return tokens.list.unique(maintain_order=True).alias(field.name)


def _collect(files: list[RowFile]) -> pl.DataFrame:
    """All rows of a table of users or items."""
    damage: BaseException | None = None
    if all(file.exact for file in files):
        try:
            return pl.concat(file.fast for file in files).collect(engine="streaming")
        except DAMAGE as error:
            damage = error
    batches = []
    for file in files:
        for batch in readable_batches(file):
            bad = batch.filter(pl.col("problem").is_not_null())
            if bad.height:
                row = bad.row(0, named=True)
                place = f"{file.name}, {file.unit} {row['line']}"
                raise DataError(f"{place}: {row['problem']}") from damage
            batches.append(batch.drop("line", "problem"))
    if damage:
        raise DataError(f"{files[0].name} cannot be read: {first_line(damage)}") from damage
    return pl.concat(batches) if batches else files[0].fast.head(0).collect()
