import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corellarec.data.liked import LEVELS, liked_levels
from corellarec.data.statistics import ITEM_PRIOR


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), items=st.integers(1, 6), count=st.integers(1, 60))
def test_levels_are_those_of_the_rows_before(seed, items, count):
    generator = np.random.default_rng(seed)
    item = generator.integers(0, items, count).astype(np.int32)
    time = generator.integers(0, 10, count)
    train = np.flatnonzero(generator.random(count) < 0.7)
    label = generator.integers(0, 2, len(train)).astype(np.int8)
    of_rows, of_items = liked_levels(item, time, train, label, items)
    if not len(train):
        assert not of_rows.any()
        return

    def share(which):
        return (label[which].sum() + ITEM_PRIOR * label.mean()) / (which.sum() + ITEM_PRIOR)

    final = np.array([share(item[train] == i) for i in range(items)])
    edges = np.quantile(final[item[train]], np.arange(1, LEVELS) / LEVELS)
    expected = final[item]
    for place, row in enumerate(train):
        earlier = (time[train] < time[row]) | (
            (time[train] == time[row]) & (np.arange(len(train)) < place)
        )
        expected[row] = share(earlier & (item[train] == item[row]))
    for found, of in ((of_rows, expected), (of_items, final)):
        assert (found <= np.searchsorted(edges, of + 1e-9, side="right")).all()
        assert (found >= np.searchsorted(edges, of - 1e-9, side="right")).all()


def test_a_row_does_not_know_its_own_label_nor_later_ones():
    item, time = np.zeros(40, np.int32), np.arange(40)
    label = (np.arange(40) % 3 > 0).astype(np.int8)
    other = label.copy()
    other[20:] = np.roll(label[20:], 1)  # the same sum: another order alone
    before, _ = liked_levels(item, time, np.arange(40), label, 1)
    after, _ = liked_levels(item, time, np.arange(40), other, 1)
    assert (before[:21] == after[:21]).all()


def test_most_liked_is_nine_and_an_unknown_item_lies_between():
    item = np.repeat(np.arange(20, dtype=np.int32), 100)
    label = (np.tile(np.arange(100), 20) < 5 * item).astype(np.int8)
    _, of_items = liked_levels(item, np.arange(2000), np.arange(2000), label, 21)
    assert of_items[:20].tolist() == sorted(of_items[:20])
    assert (of_items[0], of_items[19]) == (0, 9)
    assert of_items[20] in (4, 5)


def test_levels_of_a_log_are_from_training_labels_alone(log):
    of_rows, of_items = log.liked
    assert len(of_rows) == len(log)
    assert len(of_items) == log.items.height
    held_out = log.split.numpy() > 0
    assert (of_rows[held_out] == of_items[log.item.numpy()[held_out]]).all()
    rate = np.array([log._label[log.item == i].double().mean() for i in range(log.items.height)])
    known = log.item_train_rows.numpy() > 5
    assert np.corrcoef(of_items[known], rate[known])[0, 1] == pytest.approx(0.9, abs=0.1)
