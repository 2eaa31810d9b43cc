"""The tables of users and items of your own log: features and titles, from files or the log."""

import html
import re
from typing import Literal

import polars as pl

from corellarec.base.errors import DataError
from corellarec.base.frames import DAMAGE, check_plain, first_line, inner_type
from corellarec.config import FeaturesConfig, InteractionsConfig, ItemsConfig
from corellarec.data.features import check_fields
from corellarec.data.raw import Field
from corellarec.data.row_files import RowFile, plain_number, readable_batches
from corellarec.data.sources.scan import scan_table
from corellarec.data.times import time_parser

MISSING = ("", "na", "n/a", "nan", "null", "none", "-", "?")
CODES = "AUD|BRL|CAD|CHF|CNY|CZK|DKK|EUR|GBP|HUF|INR|JPY|KRW|MXN|NOK|NZD|PLN|RUB|SEK|TRY|USD|ZAR"
CURRENCY = f"[€$£¥₹]|{CODES}"
AROUND = f"^(?:{CURRENCY}|\\s)+|(?:{CURRENCY}|\\s)+$"  # a number; \\s knows every space
THOUSANDS = r"^[-+]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?$"  # with commas between them
OFTEN = 0.5
TAG = re.compile(r"</?[a-zA-Z][^<>]*>")


def fields_of(features: FeaturesConfig) -> tuple[Field, ...]:
    """The features that a section names."""
    return (
        *(Field(name) for name in features.categorical),
        *(Field(name, "multi") for name in features.multi),
        *(Field(name, "numeric") for name in features.numeric),
    )


def read_features(
    features: FeaturesConfig,
    interactions: InteractionsConfig,
    side: Literal["user", "item"],
    time_unit: str,
    warnings: list[str],
) -> pl.DataFrame:
    """The table of users or items: ``id``, the ``title`` of items, and the features.

    Args:
        features: The section that describes it.
        interactions: The log's, whose columns hold the features of a section without a source.
        side: ``user`` or ``item``.
        time_unit: Unit of numeric times of the log.
        warnings: What is probably not what was meant is added here.

    Raises:
        ConfigError: If a feature's name cannot be used.
        DataError: If a file or column is missing, or a line malformed.
    """
    fields, section = fields_of(features), f"{side}s"
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


def _template(title: str) -> tuple[str, tuple[str, ...]]:
    """A template with ``{}`` for every column, and the columns."""
    names = tuple(re.findall(r"\{([^{}]+)\}", title))
    return (re.sub(r"\{[^{}]+\}", "{}", title), names) if names else ("{}", (title,))


def _not_numbers(column: pl.Series, decimal: str, section: str) -> list[str]:
    """A warning of what stands in a column of numbers and is none, and not missing either."""
    text = column.cast(pl.String).str.strip_chars()
    lost = text.filter(
        text.is_not_null()
        & ~text.str.to_lowercase().is_in(MISSING)
        & column.to_frame("x").select(number(pl.col("x"), decimal))["x"].is_null()
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


def number(column: pl.Expr, decimal: str) -> pl.Expr:
    """Numbers, those of text perhaps with a currency's sign or code, and marks of thousands."""
    text = column.cast(pl.String).str.replace_all(AROUND, "")
    if decimal == ",":
        text = plain_number(text, decimal)
    else:
        whole = pl.when(text.str.contains(THOUSANDS)).then(text.str.replace_all(",", ""))
        text = whole.otherwise(text)
    return text.cast(pl.Float64, strict=False)


def _convert(field: Field, schema: pl.Schema, separators: dict[str, str], decimal: str) -> pl.Expr:
    column, found = pl.col(f"column {field.name}"), schema[f"column {field.name}"]
    if field.kind == "categorical":
        return column.cast(pl.String).alias(field.name)
    if field.kind == "numeric":
        values = number(column, decimal) if found == pl.String else column
        return values.cast(pl.Float64, strict=False).alias(field.name)
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
