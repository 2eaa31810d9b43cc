"""Users and items that came after training, in the codes that training fixed."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from corellarec.data.preparation import FeatureLayout, ValueLayout


def append(
    table: pl.DataFrame,
    new: pl.DataFrame,
    codes: Sequence[FeatureLayout],
    values: Sequence[ValueLayout],
) -> pl.DataFrame:
    """A table of users or items with new ones below it.

    A new one has no training rows: the code of its id is 0, out of vocabulary, and so is every
    feature token that training did not show. The vocabularies are read from the table itself.

    Args:
        table: The table, as :mod:`corellarec.data.prepare` makes it.
        new: ``id`` (str), perhaps ``title`` and the features, typed as in ``table``; what is
            absent is missing, other columns are left out. Ids must not be in the table.
        codes: The table's coded features, the id first.
        values: Its features made of numbers.
    """
    kept = {name: kind for name, kind in table.schema.items() if not _is_derived(name)}
    columns = [
        new[name].cast(kind, strict=False).alias(name)
        if name in new.columns
        else pl.Series(name, [None] * new.height, kind)
        for name, kind in kept.items()
        if name != "train_rows"
    ]
    more = pl.DataFrame([*columns, pl.Series("train_rows", np.zeros(new.height, np.int64))])
    derived = [_codes(table, more, feature) for feature in codes]
    derived += [_values(table, more, feature) for feature in values]
    return pl.concat([table, more.with_columns(derived).select(table.columns)])


def _is_derived(name: str) -> bool:
    return name.endswith(("_code", "_values"))


def _codes(table: pl.DataFrame, more: pl.DataFrame, feature: FeatureLayout) -> pl.Series:
    name, kind = f"{feature.name}_code", table.schema[f"{feature.name}_code"]
    if feature.name not in more.columns:  # the id
        return pl.Series(name, np.zeros(more.height, np.int32), kind)
    known = table.select(token=feature.name, code=name)
    if isinstance(kind, pl.Array):
        return _multi_codes(known, more[feature.name], feature.width).alias(name)
    if known.schema["token"].is_numeric():
        return _nearest(known, more[feature.name]).cast(kind).alias(name)
    known = known.filter(pl.col("code") > 0).unique("token")
    found = more.select(token=feature.name).join(
        known, on="token", how="left", maintain_order="left"
    )
    return found["code"].fill_null(0).cast(kind).alias(name)


def _nearest(known: pl.DataFrame, value: pl.Series) -> pl.Series:
    """Buckets of numbers: that of the largest known number at or below each."""
    known = known.drop_nulls().filter(pl.col("token").is_finite(), pl.col("code") > 0)
    if known.is_empty():
        return pl.Series(np.zeros(len(value), np.int32))
    known = known.sort("token")
    numbers = value.cast(pl.Float64).to_numpy()
    place = np.searchsorted(known["token"].to_numpy(), numbers, side="right") - 1
    code = known["code"].to_numpy()[place.clip(min=0)]
    return pl.Series(np.where(np.isfinite(numbers), code, 0))


def _multi_codes(known: pl.DataFrame, lists: pl.Series, width: int) -> pl.Series:
    """``(n, width)`` codes of each list in its order, zeros behind."""
    tokens = known.select(pl.col("token").list.head(width), pl.col("code").arr.to_list()).filter(
        pl.col("token").list.len() > 0
    )
    code_of: dict[str, int] = {}
    for names, codes in tokens.iter_rows():
        code_of |= {n: c for n, c in zip(names, codes, strict=False) if c > 0}
    matrix = np.zeros((len(lists), width), np.int32)
    for row, names in enumerate(lists.to_list()):
        for place, name in enumerate((names or [])[:width]):
            matrix[row, place] = code_of.get(name, 0)
    return pl.Series(matrix, dtype=pl.Array(pl.Int32, width))


def _values(table: pl.DataFrame, more: pl.DataFrame, feature: ValueLayout) -> pl.Series:
    """Standardised numbers, by the line through two known ones; zeros for vectors."""
    name = f"{feature.name}_values"
    made = np.zeros((more.height, feature.width), np.float32)
    if feature.name in more.columns and feature.width == 1:
        known = table.select(x=feature.name, y=pl.col(name).arr.first()).drop_nulls()
        known = known.filter(pl.col("x").is_finite()).unique("x").sort("x")
        if known.height > 1:
            (x0, y0), (x1, y1) = known.row(0), known.row(-1)
            x = more[feature.name].cast(pl.Float64).to_numpy()
            line = y0 + (x - x0) * (y1 - y0) / (x1 - x0)
            made[:, 0] = np.where(np.isfinite(x), line, 0.0)
    return pl.Series(name, made, dtype=pl.Array(pl.Float32, feature.width))
