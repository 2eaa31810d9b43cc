"""Tables of users and items with their features as small numbers."""

from typing import Any

import numpy as np
import polars as pl

from corellarec.data.raw import Field
from corellarec.errors import DataError

BUCKETS = 32  # of a numeric feature
MOST_TOKENS = 20  # of a multi-valued feature, for one user or item


def encode(
    ids: pl.Series,
    features: pl.DataFrame,
    fields: tuple[Field, ...],
    side: str,
    train_rows: np.ndarray,
) -> pl.DataFrame:
    """The table of users or items: ``id``, ``train_rows``, features and their codes.

    Code 0 is out of vocabulary. The vocabulary of a feature is what users or items with training
    rows have, the most frequent in training first; a number's code is its bucket, whose limits are
    quantiles over the users or items with training rows.

    Args:
        ids: ``(n,)`` text, sorted; all that the log has.
        features: ``id`` and the features, perhaps ``title``; ids not in ``ids`` are left out.
        fields: The features.
        side: ``user`` or ``item``.
        train_rows: ``(n,)`` rows of each in the training split.

    Raises:
        DataError: If ``features`` lists one of them twice.
    """
    table = pl.DataFrame({"id": ids, "train_rows": train_rows.astype(np.int64)})
    table = table.join(features, on="id", how="left", maintain_order="left")
    if table.height > len(ids):
        repeated = table.filter(pl.col("id").is_duplicated())["id"][0]
        raise DataError(f"{side} {repeated!r} is listed twice: keep one line for each")
    codes = [_id_codes(train_rows).alias(f"{side}_id_code")]
    names = sorted(field.name for field in fields)
    for field in sorted(fields, key=lambda field: field.name):
        match field.kind:
            case "categorical":
                code = _codes(table, field.name)
            case "multi":
                code = _multi_codes(table, field.name)
            case "numeric":
                code = _buckets(table, field.name)
        codes.append(code.alias(f"{field.name}_code"))
    kept = ["id", *(["title"] if "title" in table.columns else []), "train_rows", *names]
    return table.select(kept).with_columns(codes)


def layout(table: pl.DataFrame, names: list[str]) -> list[dict[str, Any]]:
    """Name, vocabulary size (with code 0) and width (columns of codes) of each feature."""
    found = []
    for name in names:
        codes = table[f"{name}_code"].to_numpy()
        width = codes.shape[1] if codes.ndim == 2 else 1
        found.append({"name": name, "vocabulary": int(codes.max(initial=0)) + 1, "width": width})
    return found


def _id_codes(train_rows: np.ndarray) -> pl.Series:
    """1, 2 ... by falling number of training rows, 0 for none."""
    order = np.argsort(-train_rows, kind="stable")
    codes = np.zeros(len(train_rows), dtype=np.int32)
    codes[order] = np.arange(1, len(order) + 1)
    codes[train_rows == 0] = 0
    return pl.Series(codes)


def _vocabulary(tokens: pl.DataFrame) -> pl.DataFrame:
    """``token`` and ``code`` of ``token`` and ``train_rows`` in any order and number."""
    return (
        tokens.filter((pl.col("train_rows") > 0) & (pl.col("token") != ""))
        .group_by("token")
        .agg(pl.col("train_rows").sum())
        .sort(["train_rows", "token"], descending=[True, False])
        .select("token", code=pl.int_range(1, pl.len() + 1, dtype=pl.Int32))
    )


def _codes(table: pl.DataFrame, name: str) -> pl.Series:
    tokens = table.select(pl.col(name).alias("token"), "train_rows")
    coded = tokens.join(_vocabulary(tokens), on="token", how="left", maintain_order="left")
    return coded["code"].fill_null(0)


def _multi_codes(table: pl.DataFrame, name: str) -> pl.Series:
    """``(n, width)`` codes of each list in its order, zeros behind."""
    lists = table[name].list.head(MOST_TOKENS)
    lengths = lists.list.len().fill_null(0).to_numpy().astype(np.int64)
    row = np.repeat(np.arange(len(lists)), lengths)
    place = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    tokens = lists.filter(pl.Series(lengths > 0)).explode()
    tokens = tokens.cast(pl.Categorical(pl.Categories.random()))
    number = tokens.to_physical().fill_null(0).to_numpy()
    distinct = tokens.cat.get_categories()
    weights = np.where(tokens.is_null(), 0, table["train_rows"].to_numpy()[row])
    rows = np.bincount(number, weights, minlength=len(distinct)).astype(np.int64)
    counted = pl.DataFrame({"token": distinct, "train_rows": rows})
    code_of = counted.join(_vocabulary(counted), on="token", how="left", maintain_order="left")
    codes = np.append(code_of["code"].fill_null(0).to_numpy(), 0)  # a last one for no token
    matrix = np.zeros((len(lists), max(1, int(lengths.max(initial=0)))), dtype=np.int32)
    matrix[row, place] = codes[np.where(tokens.is_null(), len(distinct), number)]
    return pl.Series(matrix, dtype=pl.Array(pl.Int32, matrix.shape[1]))


def _buckets(table: pl.DataFrame, name: str) -> pl.Series:
    values = table[name].to_numpy()
    known = np.isfinite(values)
    seen = values[known & (table["train_rows"].to_numpy() > 0)]
    if not len(seen):
        return pl.Series(np.zeros(len(values), dtype=np.int32))
    limits = np.unique(np.quantile(seen, np.linspace(0, 1, BUCKETS + 1)[1:-1]))
    codes = 1 + np.searchsorted(limits, values, side="right")
    return pl.Series(np.where(known, codes, 0).astype(np.int32))
