"""Tables of users and items with their features as small numbers."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Literal
from zlib import crc32

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corellarec.base.errors import ConfigError, DataError
from corellarec.config.data import VocabularyConfig
from corellarec.data.preparation import FeatureLayout, ValueLayout
from corellarec.data.raw import Field

BUCKETS = 32  # of a numeric feature
MOST_TOKENS = 20  # of a multi-valued feature, for one user or item
RESERVED = {"id", "title", "train_rows", "user_id", "item_id"}  # columns of the prepared tables


def reserved(names: Iterable[str]) -> set[str]:
    """Names that a feature cannot have beside features of the given names."""
    return RESERVED | {f"{name}_{kind}" for name in names for kind in ("code", "values")}


def check_fields(fields: Sequence[Field], section: str) -> None:
    """Refuse names of features that would meet in the prepared table.

    Args:
        fields: The features of users or of items.
        section: ``users`` or ``items``, for messages.

    Raises:
        ConfigError: If a name is reserved, or is given twice.
    """
    names = [field.name for field in fields]
    if clash := sorted(reserved(names).intersection(names)):
        raise ConfigError(
            f"data.{section}: a feature cannot be called {clash[0]!r} (the prepared table has a "
            "column of that name): rename the column, or leave it out"
        )
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(
            f"data.{section}: the feature {twice[0]!r} is listed twice: it is one of categorical, "
            "multi, numeric and data.item_vectors; keep one, or rename the column"
        )


def encode(
    ids: pl.Series,
    features: pl.DataFrame,
    fields: tuple[Field, ...],
    side: str,
    train_rows: np.ndarray,
    numbers: Literal["buckets", "standardized", "both"] = "buckets",
    vocabulary: VocabularyConfig = VocabularyConfig(),  # noqa: B008 (frozen)
) -> pl.DataFrame:
    """The table of users or items: ``id``, ``train_rows``, features, their codes and values.

    Code 0 is out of vocabulary. The vocabulary of a feature is what users or items with training
    rows have, the most frequent in training first; a number's code is its bucket, whose limits are
    quantiles over the users or items with training rows. Values (of standardised numbers, and of
    vectors) have zero mean over the users or items with training rows, and a variance of one over
    their width; what is missing is zero.

    Args:
        ids: ``(n,)`` text, sorted; all that the log has.
        features: ``id`` and the features, perhaps ``title``; ids not in ``ids`` are left out.
        fields: The features.
        side: ``user`` or ``item``.
        train_rows: ``(n,)`` rows of each in the training split.
        numbers: What becomes of numeric features.
        vocabulary: How many ids and values have codes of their own; the rest shares codes.

    Raises:
        DataError: If ``features`` lists one of them twice.
    """
    table = pl.DataFrame({"id": ids, "train_rows": train_rows.astype(np.int64)})
    if features.width > 1:
        table = table.join(features, on="id", how="left", maintain_order="left")
    if table.height > len(ids):
        repeated = table.filter(pl.col("id").is_duplicated())["id"][0]
        raise DataError(f"{side} {repeated!r} is listed twice: keep one line for each")
    found = [pl.Series(f"{side}_id_code", _id_codes(ids, train_rows, vocabulary))]
    values = partial(_vocabulary, limit=vocabulary.values, shared=vocabulary.shared)
    names = sorted(field.name for field in fields)
    coded, valued = coded_and_valued(fields, numbers)
    kinds = {field.name: field.kind for field in fields}
    for name in coded:
        match kinds[name]:
            case "multi":
                code = _multi_codes(table, name, values)
            case "numeric":
                code = _buckets(table, name)
            case _:
                tokens = table.select(pl.col(name).alias("token"), "train_rows")
                code = _coded(tokens, values(tokens))
        found.append(code.alias(f"{name}_code"))
    found += [_values(table, name, kinds[name]).alias(f"{name}_values") for name in valued]
    vectors = {name for name in valued if kinds[name] == "vector"}  # their values say it all
    kept = ["id", *(["title"] if "title" in table.columns else []), "train_rows"]
    kept += [name for name in names if name not in vectors]
    return table.with_columns(found).select(*kept, *(column.name for column in found))


def coded_and_valued(
    fields: tuple[Field, ...], numbers: Literal["buckets", "standardized", "both"]
) -> tuple[list[str], list[str]]:
    """Names of the features that get codes, and of those that get values; sorted."""
    numeric = {field.name for field in fields if field.kind == "numeric"}
    vectors = {field.name for field in fields if field.kind == "vector"}
    names = {field.name for field in fields}
    coded = names - vectors - (numeric if numbers == "standardized" else set())
    valued = vectors | (numeric if numbers != "buckets" else set())
    return sorted(coded), sorted(valued)


def value_layout(table: pl.DataFrame, names: list[str]) -> list[ValueLayout]:
    """Where each feature made of numbers lies."""
    return [ValueLayout(n, table[f"{n}_values"].to_numpy().shape[1]) for n in names]


def layout(table: pl.DataFrame, names: list[str]) -> list[FeatureLayout]:
    """Where each coded feature lies."""
    found = []
    for name in names:
        codes = table[f"{name}_code"].to_numpy()
        width = codes.shape[1] if codes.ndim == 2 else 1
        found.append(FeatureLayout(name, int(codes.max(initial=0)) + 1, width))
    return found


def _vocabulary(tokens: pl.DataFrame, limit: int, shared: int) -> pl.DataFrame:
    """``token`` and ``code`` of ``token`` and ``train_rows`` in any order and number.

    Codes beyond ``limit`` are ``shared`` ones; a token without training rows has none.
    """
    seen = (
        tokens.filter((pl.col("train_rows") > 0) & (pl.col("token") != ""))
        .group_by("token")
        .agg(pl.col("train_rows").sum())
        .sort(["train_rows", "token"], descending=[True, False])
        .select("token", code=pl.int_range(1, pl.len() + 1, dtype=pl.Int32))
    )
    if seen.height <= limit:
        return seen
    if not shared:
        return seen.head(limit)
    rest = pl.Series(_shared_codes(seen["token"][limit:], limit, shared), dtype=pl.Int32)
    return seen.with_columns(code=pl.concat([seen["code"][:limit], rest]))


def _shared_codes(tokens: pl.Series, limit: int, shared: int) -> list[int]:
    """Codes beyond ``limit``."""
    return [limit + 1 + crc32(token.encode()) % shared for token in tokens]


def _id_codes(
    ids: pl.Series, train_rows: np.ndarray, vocabulary: VocabularyConfig
) -> NDArray[np.int32]:
    """``(n,)`` codes of ids in order, as :func:`_vocabulary` has them; it would look each up."""
    by_rows = np.argsort(-train_rows, kind="stable")[: np.count_nonzero(train_rows)]
    own, rest = np.split(by_rows, [vocabulary.ids or len(ids)])
    codes = np.zeros(len(ids), np.int32)
    codes[own] = np.arange(1, len(own) + 1)
    if vocabulary.shared:
        codes[rest] = _shared_codes(ids.gather(rest), vocabulary.ids, vocabulary.shared)
    return codes


def _coded(tokens: pl.DataFrame, vocabulary: pl.DataFrame) -> pl.Series:
    coded = tokens.join(vocabulary, on="token", how="left", maintain_order="left")
    return coded["code"].fill_null(0)


def _multi_codes(
    table: pl.DataFrame, name: str, vocabulary: Callable[[pl.DataFrame], pl.DataFrame]
) -> pl.Series:
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
    code_of = counted.join(vocabulary(counted), on="token", how="left", maintain_order="left")
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


def _values(table: pl.DataFrame, name: str, kind: str) -> pl.Series:
    """``(n, width)`` float32: standardised, over the root of the width; zeros for no value.

    The root makes a vector about as long as a number alone: else it would drown the other features.
    """
    column = table[name]
    if kind == "numeric":
        values = column.cast(pl.Float64).to_numpy()[:, None]
    else:
        found = column.drop_nulls()
        width = len(found[0]) if len(found) else 1
        values = np.full((len(column), width), np.nan)
        values[column.is_not_null().to_numpy()] = found.list.to_array(width).to_numpy()
    seen = values[np.isfinite(values).all(1) & (table["train_rows"].to_numpy() > 0)]
    if len(seen):
        values = (values - seen.mean(0)) / np.maximum(seen.std(0), 1e-6)
        values /= np.sqrt(values.shape[1])
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0).astype(np.float32)
    return pl.Series(values, dtype=pl.Array(pl.Float32, values.shape[1]))
