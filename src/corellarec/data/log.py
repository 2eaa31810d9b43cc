"""The prepared log in memory; a user's history is a range of its rows."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from corellarec.config import NegativesConfig
from corellarec.data.counts import Counts
from corellarec.data.levels import usual_levels
from corellarec.data.liked import liked_levels
from corellarec.data.negatives import log_shares
from corellarec.data.preparation import FeatureLayout, Features, ValueLayout, read_preparation
from corellarec.data.splits import HISTORY_ONLY, SPLITS
from corellarec.data.statistics import Statistics
from corellarec.data.stored_log import read_tables


@dataclass(frozen=True)
class Samples:
    """What is to be scored: a target item each, and the user's history as a range of rows.

    Args:
        user: ``(n,)`` int64, number in the user table.
        item: ``(n,)`` int64, number in the item table.
        end: ``(n,)`` int64; the history is the log's history rows before this one ...
        begin: ``(n,)`` int64; ... back to the user's first.
        row: ``(n,)`` int64; the row of the log that this is, -1 where it is none.
    """

    user: Tensor
    item: Tensor
    begin: Tensor
    end: Tensor
    row: Tensor

    def __len__(self) -> int:
        return len(self.user)

    def __getitem__(self, index: Tensor | slice) -> "Samples":
        return Samples(*(getattr(self, column.name)[index] for column in fields(self)))


@dataclass(frozen=True)
class RangeOfRows:
    """Begin and end of rows' histories; it holds a log's columns, and not the log."""

    user: Tensor
    user_begin: Tensor
    history_before: Tensor | None

    def __call__(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """``(n,)`` each, in history rows."""
        end = rows if self.history_before is None else self.history_before[rows]
        return self.user_begin[self.user[rows].long()], end


class Log:
    """A prepared log: columns as contiguous tensors, sorted by (user, time, item).

    Args:
        rows: The columns ``user``, ``item``, ``label``, ``time``, ``split``, and perhaps ``level``.
        users, items: The tables, with codes.
        features: The features and their places in the matrices.
        history: Whether ``all`` rows of a user make the history, or the ``positives``.
        ties: Whether rows of one user and time are ``ordered``, by item, or ``apart``: not in each
            other's history.
        negatives: How the rows with label 0 were drawn; None where the log has its own.

    Attributes:
        user, item: ``(rows,)`` int32, numbers in the user and item tables.
        opened: who read labels of the test split, in order.
        time: ``(rows,)`` int64, microseconds since 1970.
        split: ``(rows,)`` int8, an index into ``SPLITS``, or 3 where a row is history only.
        level: ``(rows,)`` int8, how much an item was liked: a rating's level (see
            :mod:`corellarec.data.levels`), or the label where there is none.
        usual_level: The level that networks read in the place of each, see
            :func:`corellarec.data.levels.usual_levels`.
        history_rows: ``(history rows,)`` int64, their row numbers.
        history_level: ``(history rows,)``, their levels.
        history_user, history_item, history_label, history_time: the rows that make histories,
            all or the positive ones; :class:`Samples` counts in these. A test row's label is in
            the history of the user's later ones, as it would be in service.
        range_of_rows: Where the history of each row begins and ends.
        user_codes, item_codes: ``(entities, sum of widths)`` int32.
        user_values, item_values: ``(entities, sum of widths)`` float32.
        user_train_rows, item_train_rows: ``(users,)``, ``(items,)`` int64, rows of each in the
            training split; 0 is a cold user or item.
        log_q: ``(items,)`` float64, log probability that a drawn negative is each item, which what
            models answer is relative to; 0 where none are drawn.
        weight: ``(rows,)`` float32 weights in training, 1 in the mean; None where all are equal.
    """

    def __init__(
        self,
        rows: pl.DataFrame,
        users: pl.DataFrame,
        items: pl.DataFrame,
        features: Features,
        history: Literal["all", "positives"] = "all",
        ties: Literal["ordered", "apart"] = "ordered",
        negatives: NegativesConfig | None = None,
    ) -> None:
        self.rows = rows = _with_levels(rows)
        self.history: Literal["all", "positives"] = history
        self.ties: Literal["ordered", "apart"] = ties
        self.negatives = negatives
        self.user = _tensor(rows["user"])
        self.item = _tensor(rows["item"])
        self._label = _tensor(rows["label"])
        self.opened: list[str] = []
        self.time = _tensor(rows["time"].to_physical())
        self.split = _tensor(rows["split"])
        self.users, self.items = users, items
        self.features = features
        self.user_train_rows = _tensor(users["train_rows"])
        self.item_train_rows = _tensor(items["train_rows"])
        self.user_codes = _matrix(users, features.user, "code", np.int32)
        self.item_codes = _matrix(items, features.item, "code", np.int32)
        self.user_values = _matrix(users, features.user_values, "values", np.float32)
        self.item_values = _matrix(items, features.item_values, "values", np.float32)
        self.history_user, self.history_item = self.user, self.item
        self.history_label, self.history_time = self._label, self.time
        self.level = self.history_level = _tensor(rows["level"])
        self.history_rows = torch.arange(len(self.user))
        before: Tensor | None = None
        if history == "positives":
            positive = self._label == 1
            self.history_rows = positive.nonzero().squeeze(1)
            self.history_user, self.history_item = self.user[positive], self.item[positive]
            self.history_label, self.history_time = self._label[positive], self.time[positive]
            self.history_level = self.level[positive]
            before = positive.cumsum(0) - positive.long()
        if ties == "apart" and len(rows):
            before = torch.arange(len(self.user)) if before is None else before
            before = before[_first_of_moment(self.user, self.time)]
        self.log_q = log_shares(self.item_train_rows.numpy(), negatives)
        train = self.rows_of("train")
        usual = usual_levels(
            self.level[train].numpy(), self._label[train].numpy(), len(features.ratings)
        )
        self.usual_level = torch.from_numpy(usual)
        self.weight = None
        if "weight" in rows.columns:
            weight = _tensor(rows["weight"])
            self.weight = weight / weight[train].mean()
        counts = torch.bincount(self.history_user, minlength=users.height)
        self.user_begin = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        self.range_of_rows = RangeOfRows(self.user, self.user_begin, before)

    @classmethod
    def load(cls, directory: Path) -> "Log":
        """Read a prepared log.

        Raises:
            ArtifactError: If the directory is missing, incomplete or damaged.
        """
        facts = read_preparation(directory)
        tables = read_tables(directory, facts.features)
        return cls(
            *tables,
            features=facts.features,
            history=facts.history,
            ties=facts.ties,
            negatives=facts.negatives,
        )

    def _with_tables(self, rows: pl.DataFrame, users: pl.DataFrame, items: pl.DataFrame) -> "Log":
        return Log(rows, users, items, self.features, self.history, self.ties, self.negatives)

    def __len__(self) -> int:
        return len(self.user)

    def rows_of(self, split: str) -> Tensor:
        """Row numbers of a split (``train``, ``validation`` or ``test``), int64, ascending."""
        return (self.split == SPLITS.index(split)).nonzero().squeeze(1)

    def labels(self, rows: Tensor) -> Tensor:
        """``(n,)`` int8, 0 or 1: labels of rows that are not of the test split.

        Raises:
            ValueError: If one is: nothing may be fitted or chosen on its label.
        """
        if (self.split[rows].numpy() == SPLITS.index("test")).any():
            raise ValueError("labels of test rows are read by test_labels alone")
        return self._label[rows]

    def test_labels(self, rows: Tensor, who: str) -> Tensor:
        """``(n,)`` int8, 0 or 1: labels of test rows, for a final evaluation and nothing else.

        Args:
            rows: Row numbers.
            who: Who reads them; kept in ``opened``.
        """
        self.opened.append(who)
        return self._label[rows]

    def samples(self, rows: Tensor) -> Samples:
        """The samples of log rows: row i's target with the user's rows before i as history.

        Where ties are apart, the history ends before the time of row i.
        """
        return Samples(
            self.user[rows].long(), self.item[rows].long(), *self.range_of_rows(rows), rows
        )

    def pairs(self, user: Tensor, item: Tensor, time: Tensor | None = None) -> Samples:
        """Samples of (user, item) pairs.

        The history is what the user did before ``time``. Without times it is all the user's rows;
        but a pair that the log holds is scored as of its latest row, since otherwise its own label
        would be in its history.

        Args:
            user: ``(n,)`` int64, numbers in the user table; -1 is a user without history.
            item: ``(n,)`` int64, numbers in the item table.
            time: ``(n,)`` int64, microseconds since 1970.
        """
        begin, end = self.history_range(user)
        row = self._latest_row(user, item)
        if time is None:
            end = torch.where(row < 0, end, self.samples(row.clamp(min=0)).end)
        else:
            end = self._first_at(time, begin, end)
            row = torch.where(self.time[row.clamp(min=0)] == time, row, -1)
        return Samples(user, item, begin, end, row)

    def candidates(self, user: Tensor, item: Tensor) -> Samples:
        """Samples of items to offer now: all the user's rows are history, whatever the item.

        Args:
            user: ``(n,)`` int64, numbers in the user table; -1 is a user without history.
            item: ``(n,)`` int64, numbers in the item table.
        """
        return Samples(user, item, *self.history_range(user), torch.full_like(user, -1))

    def history_range(self, user: Tensor) -> tuple[Tensor, Tensor]:
        """``(n,)`` begin and end of each user's history rows; an empty range for user -1."""
        known = user.clamp(min=0)
        begin, end = self.user_begin[known], self.user_begin[known + 1]
        return begin, torch.where(user < 0, begin, end)

    def items_of(self, user: int) -> NDArray[np.int32]:
        """Items of all rows of a user, whatever their labels; drawn negatives are none."""
        if self.negatives:
            begin, end = self.user_begin[user : user + 2].tolist()
            return self.history_item[begin:end].numpy()
        begin, end = np.searchsorted(self.user.numpy(), [user, user + 1])
        return self.item[begin:end].numpy()

    def _latest_row(self, user: Tensor, item: Tensor) -> Tensor:
        """``(n,)`` int64: the last log row of each pair, -1 where there is none."""
        keys, rows = self._rows_by_pair
        wanted = (user * self.items.height + item).numpy()
        place = np.searchsorted(keys, wanted, side="right") - 1
        found = (place >= 0) & (keys[place] == wanted) & (user.numpy() >= 0)
        return torch.from_numpy(np.where(found, rows[place], -1))

    @cached_property
    def _rows_by_pair(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Keys of the (user, item) pairs, ascending, and their rows in order of time."""
        keys = self.user.numpy().astype(np.int64) * self.items.height + self.item.numpy()
        rows = self.history_rows.numpy() if self.negatives else np.arange(len(keys))
        rows = rows[np.argsort(keys[rows], kind="stable")]
        return keys[rows], rows

    def _first_at(self, time: Tensor, begin: Tensor, end: Tensor) -> Tensor:
        """The first history row from ``begin`` to ``end`` that is not before ``time``."""
        low, high = begin.clone(), end.clone()
        while (open_ := low < high).any():
            middle = (low + high) // 2
            before = open_ & (
                self.history_time[middle.clamp(max=len(self.history_time) - 1)] < time
            )
            low = torch.where(before, middle + 1, low)
            high = torch.where(open_ & ~before, middle, high)
        return low

    def extended(self, rows: pl.DataFrame, users: pl.DataFrame, items: pl.DataFrame) -> "Log":
        """This log with further rows, sorted in by time; they are history and in no split.

        Args:
            rows: ``user``, ``item`` (int32, numbers in ``users`` and ``items``), ``label`` and
                perhaps ``level`` (int8), ``time`` (datetime in microseconds, UTC); a row that
                repeats the user, item and time of another one is dropped.
            users: The user table, this log's and perhaps more below it.
            items: The item table, likewise.
        """
        if rows.is_empty():
            return self._with_tables(self.rows, users, items)
        rows = _with_levels(rows).with_columns(split=pl.lit(HISTORY_ONLY, pl.Int8))
        if "weight" in self.rows.columns:
            rows = rows.with_columns(weight=pl.lit(1.0, pl.Float32))
        rows = rows.select(self.rows.columns)
        # A drawn negative is no reason to drop what the user did.
        keys = ["user", "time", "item", *(["label"] if self.negatives else [])]
        together = pl.concat([self.rows, rows]).unique(keys, keep="first", maintain_order=True)
        return self._with_tables(together.sort("user", "time", "item"), users, items)

    @cached_property
    def liked_before(self) -> Tensor:
        """``(history rows + 1,)`` int64: positive rows before each history row, and in all."""
        liked = self.history_label.long().cumsum(0)
        return torch.cat([liked.new_zeros(1), liked])

    @cached_property
    def liked(self) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
        """``(rows,)`` and ``(items,)``: :func:`liked_levels`, or how often items were taken."""
        if isinstance(self.statistics, Counts):
            return self.statistics.levels(self)
        train = self.rows_of("train")
        return liked_levels(
            self.item.numpy(),
            self.time.numpy(),
            train.numpy(),
            self.labels(train).numpy(),
            self.items.height,
        )

    @cached_property
    def statistics(self) -> Statistics | Counts:
        """What the rows before a sample say of its item and its user."""
        return Counts(self) if self.negatives else Statistics(self)

    @cached_property
    def titles(self) -> list[str]:
        """Title of each item in the item table; empty where it has none."""
        return self.items["title"].fill_null("").to_list()


def _first_of_moment(user: Tensor, time: Tensor) -> Tensor:
    """``(rows,)`` the first row of the same user and time."""
    begins = torch.ones(len(user), dtype=torch.bool)
    begins[1:] = (user[1:] != user[:-1]) | (time[1:] != time[:-1])
    return begins.nonzero().squeeze(1)[begins.cumsum(0) - 1]


def _with_levels(rows: pl.DataFrame) -> pl.DataFrame:
    return rows if "level" in rows.columns else rows.with_columns(level="label")


def _tensor(column: pl.Series) -> Tensor:
    return torch.from_numpy(column.to_numpy().copy())


def _matrix(
    table: pl.DataFrame,
    layouts: Sequence[FeatureLayout] | Sequence[ValueLayout],
    kind: str,
    dtype: type[np.generic],
) -> Tensor:
    """``(entities, sum of widths)``: the columns of codes or of values, side by side."""
    columns = [table[f"{feature.name}_{kind}"].to_numpy() for feature in layouts]
    empty = np.zeros((table.height, 0), dtype)
    return torch.from_numpy(np.column_stack([empty, *columns]).astype(dtype, copy=False))
