"""Ranking tasks: what was known when the split began, and what users then took."""

import numpy as np
import polars as pl
import pytest
import torch

from corellarec.base.errors import DataError
from corellarec.data import ranking
from corellarec.data.log import Log
from corellarec.data.ranking import as_of, positive_items, ranking_task, taken_items

SPLITS = {"validation": 1, "test": 2}


def with_split(log, split):
    """The log with the splits of some rows replaced."""
    return Log(log.rows.with_columns(split=split), log.users, log.items, log.features, log.history)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_task_is_what_a_slow_count_finds(log, split):
    task = ranking_task(log, split, "test")
    rows = log.rows.with_columns(number=pl.int_range(pl.len()))
    before = rows.filter(pl.col("split") < SPLITS[split])
    during = rows.filter(pl.col("split") == SPLITS[split], pl.col("label") == 1)
    known = set(before["item"])
    assert task.candidate.tolist() == sorted(known)
    seen = {user: set(part["item"]) for (user,), part in before.group_by("user")}
    expected = {}
    for (user,), part in during.group_by("user"):
        liked = set(part["item"]) & known - seen.get(user, set())
        if liked:
            expected[user] = liked
    assert task.user.tolist() == sorted(expected)
    for row, user in enumerate(task.user.tolist()):
        assert set(task.candidate[task.relevant[row]]) == expected[user]
        assert set(task.candidate[task.open[row]]) == known - seen.get(user, set())
    assert task.positives == during.height
    pairs = during.select("user", "item").rows()
    assert task.new == sum(item not in known for _, item in pairs)
    assert task.seen == sum(item in known and item in seen.get(user, set()) for user, item in pairs)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_what_came_later_changes_nothing_that_is_known(log, split):
    """Labels and items of the split are shuffled: histories, candidates, counts stay."""
    generator = np.random.default_rng(0)
    later = log.rows["split"] >= SPLITS[split]
    label, item = log.rows["label"].to_numpy().copy(), log.rows["item"].to_numpy().copy()
    places = np.flatnonzero(later.to_numpy())
    label[places] = 1 - label[places]
    item[places] = generator.permutation(item[places])
    rows = log.rows.with_columns(label=pl.Series(label), item=pl.Series(item))
    changed = as_of(Log(rows, log.users, log.items, log.features, log.history), split)
    same = as_of(log, split)
    assert changed.rows.equals(same.rows)
    assert (same.time < log.time[log.rows_of(split)].min()).all()


def test_only_test_labels_are_recorded(log):
    before = list(log.opened)
    ranking_task(log, "validation", "someone")
    assert log.opened == before
    ranking_task(log, "test", "someone")
    assert log.opened == [*before, "someone"]


def test_history_only_rows_before_the_split_are_history(log):
    first = int(log.time[log.rows_of("test")].min())
    early = pl.col("time").dt.epoch("us") < first - 60_000_000
    changed = with_split(log, pl.when(early).then(pl.lit(3)).otherwise("split").cast(pl.Int8))
    assert (as_of(changed, "test").rows["split"] == 3).sum() == log.rows.filter(early).height
    late = with_split(log, pl.when(pl.col("split") == 2).then(
        pl.when(pl.int_range(pl.len()) % 2 == 0).then(pl.lit(3)).otherwise("split")
    ).otherwise("split").cast(pl.Int8))  # fmt: skip
    cut = int(late.time[late.rows_of("test")].min())
    assert (as_of(late, "test").time < cut).all()


def test_seen_items_may_be_ranked(log):
    masked = ranking_task(log, "test", "test")
    whole = ranking_task(log, "test", "test", mask_seen=False)
    assert whole.open.all()
    assert whole.seen == 0
    assert whole.relevant.sum() > masked.relevant.sum()


def test_sampled_candidates_are_the_relevant_ones_and_so_many_others(log):
    whole = ranking_task(log, "test", "test")
    few = ranking_task(log, "test", "test", sampled=5)
    assert (few.relevant == whole.relevant).all()
    assert (few.open[few.relevant]).all()
    assert not (few.open & ~whole.open).any()
    others = (few.open & ~few.relevant).sum(1)
    assert others.tolist() == np.minimum(5, (whole.open & ~whole.relevant).sum(1)).tolist()
    again = ranking_task(log, "test", "test", sampled=5)
    assert (again.open == few.open).all()
    assert (ranking_task(log, "test", "test", sampled=5, seed=1).open != few.open).any()
    every = ranking_task(log, "test", "test", sampled=10_000)
    assert (every.open == whole.open).all()


def test_random_users_are_some_of_all(log):
    whole, few = ranking_task(log, "test", "t"), ranking_task(log, "test", "t", users=3)
    assert len(few.user) == 3
    places = np.searchsorted(whole.user, few.user)
    assert (whole.user[places] == few.user).all()
    assert (whole.relevant[places] == few.relevant).all()


def test_nothing_relevant_is_one_line(log):
    none = Log(log.rows.with_columns(label=pl.lit(0, pl.Int8)), log.users, log.items, log.features)
    with pytest.raises(DataError, match="no user has a positive test row"):
        ranking_task(none, "test", "test")


def test_too_many_users_and_items_are_one_line(log, monkeypatch):
    monkeypatch.setattr(ranking, "MOST_CELLS", 60)
    with pytest.raises(DataError, match=r"rank for fewer users \(--users\)"):
        ranking_task(log, "test", "test")
    assert len(ranking_task(log, "test", "test", users=1).user) == 1


def test_matrices_count_each_pair_once(log):
    past = as_of(log, "test")
    label = past.labels(torch.arange(len(past))).numpy()
    pairs = set(zip(past.user.tolist(), past.item.tolist(), strict=True))
    assert len(pairs) < len(past)  # some pair comes twice
    assert taken_items(past).nnz == len(pairs)
    columns = zip(past.user.tolist(), past.item.tolist(), label, strict=True)
    liked = {(user, item) for user, item, yes in columns if yes}
    found = positive_items(past)
    assert set(zip(*(part.tolist() for part in found.nonzero()), strict=True)) == liked
    assert set(found.data) == {1.0}
