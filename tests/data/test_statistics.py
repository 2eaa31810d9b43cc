"""Statistics of items and users, as of a row."""

import numpy as np
import polars as pl
import pytest
import torch

from corellarec.data.levels import rating_edges, rating_levels
from corellarec.data.log import Log
from corellarec.data.preparation import Features
from corellarec.data.statistics import ITEM_PRIOR, STATISTICS, USER_PRIOR, ordered_sums


def test_a_training_row_counts_the_rows_before_it():
    item = np.array([0, 1, 0, 0, 1], np.int32)
    time = np.array([30, 10, 10, 20, 40])
    train = np.array([0, 1, 2, 3])
    found = ordered_sums(item, time, train, np.array([1.0, 0.0, 1.0, 0.0]), items=3)
    assert found.row_count.tolist() == [2, 0, 0, 1, 1]
    assert found.row_sum.tolist() == [1.0, 0.0, 0.0, 1.0, 0.0]
    assert found.item_count.tolist() == [3, 1, 0]
    assert found.item_sum.tolist() == [2.0, 0.0, 0.0]


def log_of(rows, ratings=()):
    table = pl.DataFrame(
        rows, schema=["user", "item", "label", "time", "split", "level"], orient="row"
    ).with_columns(
        pl.col("user", "item").cast(pl.Int32), pl.col("label", "split", "level").cast(pl.Int8),
        time=pl.col("time").cast(pl.Datetime("us", "UTC")),
    )  # fmt: skip
    users, items = (
        pl.DataFrame({"id": ["0", "1"], "train_rows": [1, 1]}) for _ in ("user", "item")
    )
    return Log(table, users, items, Features([], [], ratings=ratings))


ROWS = [  # two users, two items; user 1's last row is a test row
    (0, 0, 1, 10, 0, 1),
    (0, 1, 0, 20, 0, 0),
    (1, 0, 1, 30, 0, 1),
    (1, 1, 1, 40, 0, 1),
    (1, 0, 0, 50, 2, 0),
]


def named(values):
    return dict(zip(STATISTICS, values.tolist(), strict=True))


def test_by_hand():
    log = log_of(ROWS)
    rate, spread = 0.75, np.sqrt(0.75 * 0.25)
    odds = np.log(rate / (1 - rate))

    def log_odds(positives, count, prior):
        share = (positives + prior * rate) / (count + prior)
        return np.log(share / (1 - share)) - odds

    rows = log.statistics(log.samples(torch.arange(5)))
    third = named(rows[2])  # user 1 is new, item 0 has one training row, a positive one
    assert third["item log odds"] == pytest.approx(log_odds(1, 1, ITEM_PRIOR), abs=1e-6)
    assert third["item log rows"] == pytest.approx(np.log(2) / 5)
    assert third["item rating"] == pytest.approx((1 - rate) / spread / (1 + ITEM_PRIOR))
    assert (third["user log odds"], third["user log rows"], third["first row"]) == (0, 0, 1)
    last = named(rows[4])  # both training rows of item 0; two rows of user 1
    assert last["item log odds"] == pytest.approx(log_odds(2, 2, ITEM_PRIOR), abs=1e-6)
    assert last["user log odds"] == pytest.approx(log_odds(2, 2, USER_PRIOR), abs=1e-6)
    high = (1 - rate) / spread
    means = high / (1 + ITEM_PRIOR), (0 - rate) / spread / (1 + ITEM_PRIOR)
    residual = sum(high - mean for mean in means) / (2 + USER_PRIOR)
    assert last["user residual"] == pytest.approx(residual)
    assert last["expected rating"] == pytest.approx(residual + last["item rating"])


def test_own_and_later_labels_are_not_in_a_row():
    log = log_of(ROWS)
    changed = [(*row[:2], 1 - row[2], *row[3:5], 1 - row[5]) if row[3] >= 40 else row
               for row in ROWS]  # fmt: skip
    other = log_of(changed)
    # The rate of positives is of all training rows, so compare the columns without it.
    columns = [STATISTICS.index(name) for name in ("item log rows", "user log rows", "first row")]
    rows = torch.arange(4)
    before, after = (one.statistics(one.samples(rows)) for one in (log, other))
    torch.testing.assert_close(before[:, columns], after[:, columns])
    found = ordered_sums(log.item.numpy(), log.time.numpy(), rows.numpy(),
                         log.labels(rows).numpy(), 2)  # fmt: skip
    again = ordered_sums(log.item.numpy(), log.time.numpy(), rows.numpy(),
                         other.labels(rows).numpy(), 2)  # fmt: skip
    assert found.row_sum[:4].tolist() == again.row_sum[:4].tolist()


def test_what_is_no_row_of_the_log_sees_all_training_rows():
    log = log_of(ROWS)
    pair = log.candidates(torch.tensor([0]), torch.tensor([0]))
    assert named(log.statistics(pair)[0])["item log rows"] == pytest.approx(np.log(3) / 5)
    logged = log.pairs(torch.tensor([0]), torch.tensor([0]))  # as of the row itself
    assert named(log.statistics(logged)[0])["item log rows"] == 0


def test_levels_are_ratings_or_their_quantiles():
    assert rating_edges(np.array([3.0, 1.0, 5.0, 3.0])) == [1.0, 3.0, 5.0]
    many = np.arange(1000) / 10
    edges = rating_edges(many)
    assert len(edges) == 10
    assert np.bincount(rating_levels(many, edges)).tolist() == [0, 0, *[100] * 10]
    assert rating_levels(np.array([-5.0, 500.0]), edges).tolist() == [2, 11]


def test_a_label_without_a_rating_stands_for_the_mean_of_its_kind():
    stars = [(0, 0, 1, 10, 0, 3), (0, 1, 1, 20, 0, 4), (1, 0, 0, 30, 0, 2), (1, 1, 0, 40, 2, 0)]
    log = log_of(stars, ratings=(1.0, 4.0, 5.0))
    given = log_of([*stars[:2], (1, 0, 0, 30, 0, 2), (1, 1, 0, 40, 2, 2)], ratings=(1.0, 4.0, 5.0))
    after = [one.statistics(one.candidates(torch.tensor([1]), torch.tensor([0])))
             for one in (log, given)]  # fmt: skip
    torch.testing.assert_close(*after)
