"""Train, validation and test: cut by time over the whole log, or given by it."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corellarec.base.errors import DataError

SPLITS = ("train", "validation", "test")
HISTORY_ONLY = 3
GIVEN_SPLITS = {"train": 0, "training": 0, "0": 0, "validation": 1, "valid": 1, "val": 1,
                "dev": 1, "1": 1, "test": 2, "testing": 2, "2": 2}  # fmt: skip


def split_rows(
    user: NDArray[np.int32],
    time: NDArray[np.int64],
    *,
    shares: tuple[float, float, float],
    min_history: int = 0,
    given: NDArray[np.int8] | None = None,
) -> NDArray[np.int8]:
    """Assign each row to a split.

    Rows of one time stay together.

    Args:
        user: ``(rows,)`` each row's user; sorted by (user, time).
        time: ``(rows,)`` in any unit.
        shares: Of train, validation and test, cut by time over the whole log.
        min_history: The first so many rows of each user are history only.
        given: ``(rows,)`` splits, which count in place of ``shares``.

    Returns:
        ``(rows,)`` int8: an index into ``SPLITS``, or ``HISTORY_ONLY``.

    Raises:
        DataError: If all rows are history only.
    """
    early = np.zeros(len(user), bool)
    if min_history:
        first = np.append(0, np.flatnonzero(np.diff(user)) + 1)
        lengths = np.diff(np.append(first, len(user)))
        early = np.arange(len(user)) - np.repeat(first, lengths) < min_history
    if given is not None:
        split = given.copy()
    else:
        sampled = time[~early]
        if not len(sampled):
            raise DataError(
                f"no user has more than data.min_history = {min_history} rows: ask for less"
            )
        places = np.minimum(
            len(sampled) - 1, np.round(len(sampled) * np.cumsum(shares[:2])).astype(int)
        )
        sampled.partition(places)  # a copy of the times
        train_end, validation_end = sampled[places]
        split = (time >= train_end).astype(np.int8) + (time >= validation_end).astype(np.int8)
    split[early] = HISTORY_ONLY
    return split


def check_splits(
    label: NDArray[np.bool_],
    split: NDArray[np.int8],
    *,
    shares: tuple[float, float, float],
    threshold: float | None,
    drawn: bool = False,
) -> None:
    """Refuse splits that are empty or have labels of one kind.

    Args:
        label: ``(rows,)``.
        split: ``(rows,)`` as :func:`split_rows` gives it.
        shares: What was asked for, for messages.
        threshold: The rating from which labels are positive; None where the log holds labels.
        drawn: Whether negatives will be drawn, so that positives are enough.

    Raises:
        DataError: If a split cannot be used.
    """
    for number, name in enumerate(SPLITS):
        part = label[split == number]
        if not len(part):
            raise DataError(
                f"the {name} split is empty: the log's times do not allow data.split = "
                f"{list(shares)}"
            )
        if drawn or part.min() != part.max():
            continue
        found = f"every label in the {name} split is {int(part[0])}"
        if threshold is None:
            raise DataError(
                f"{found}: choose shares with data.split that leave both labels in each split, or "
                f"add rows with label {1 - int(part[0])}"
            )
        raise DataError(
            f"{found} with data.positive_rating = {threshold:g}: choose a threshold, or shares "
            "with data.split, that leave both labels in each split"
        )


def check_drawn(label: NDArray[np.int8], split: NDArray[np.int8]) -> None:
    """Refuse a split without negatives.

    Args:
        label: ``(rows,)`` with 0 where a negative was drawn.
        split: ``(rows,)`` as :func:`split_rows` gives it.

    Raises:
        DataError: If there is one.
    """
    for number, name in enumerate(SPLITS):
        if label[split == number].min():
            raise DataError(
                f"no negatives can be drawn for the {name} split: its users took every item that "
                "there was by then; a log without negatives needs more items"
            )


def split_numbers(names: pl.Series) -> NDArray[np.int8]:
    """``(n,)`` an index into ``SPLITS`` for each name of a split.

    Raises:
        DataError: If a name is unknown.
    """
    found = names.str.strip_chars().str.to_lowercase()
    known = found.replace_strict(
        list(GIVEN_SPLITS), list(GIVEN_SPLITS.values()), default=None, return_dtype=pl.Int8
    )
    if known.null_count():
        other = names.filter(known.is_null())[0]
        raise DataError(
            f"the split column holds {other!r}; it may hold train, validation (or valid, val, "
            "dev) and test"
        )
    return known.to_numpy()
