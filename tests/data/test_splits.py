import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corellarec.base.errors import DataError
from corellarec.data.splits import HISTORY_ONLY, check_splits, split_numbers, split_rows

SHARES = (0.8, 0.1, 0.1)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    rows=st.integers(1, 200),
    share=st.floats(0.1, 0.8),
    min_history=st.integers(0, 2),
)
def test_no_row_is_earlier_than_one_of_a_split_before(seed, rows, share, min_history):
    generator = np.random.default_rng(seed)
    user = np.sort(generator.integers(0, 10, rows)).astype(np.int32)
    time = generator.integers(0, 50, rows)
    time = time[np.lexsort((time, user))]
    place = np.arange(rows) - np.searchsorted(user, user)
    shares = (share, (1 - share) / 2, (1 - share) / 2)
    if (place < min_history).all():
        with pytest.raises(DataError, match="no user has more than data.min_history"):
            split_rows(user, time, shares=shares, min_history=min_history)
        return
    split = split_rows(user, time, shares=shares, min_history=min_history)
    assert ((split == HISTORY_ONLY) == (place < min_history)).all()
    for before, after in ((0, 1), (1, 2), (0, 2)):
        earlier, later = time[split == before], time[split == after]
        if len(earlier) and len(later):
            assert earlier.max() < later.min()


def test_given_names_count_and_min_history_goes_before_them():
    user, time = np.repeat([0, 1], 3).astype(np.int32), np.arange(6)
    given = split_numbers(pl.Series(["train", " Valid ", "TEST", "0", "dev", "testing"]))
    split = split_rows(user, time, shares=SHARES, given=given)
    assert split.tolist() == [0, 1, 2, 0, 1, 2]
    split = split_rows(user, time, shares=SHARES, given=given, min_history=1)
    assert split.tolist() == [3, 1, 2, 3, 1, 2]
    with pytest.raises(DataError, match="holds 'other'; it may hold train"):
        split_numbers(pl.Series(["other"] * 6))


def test_splits_without_both_labels_are_refused():
    split = np.array([0, 0, 1, 1, 2, 2], np.int8)
    both = np.array([0, 1] * 3, bool)
    check_splits(both, split, shares=SHARES, threshold=4)
    with pytest.raises(DataError, match="the test split is empty: .* data.split = "):
        check_splits(both[:4], split[:4], shares=SHARES, threshold=4)
    alike = np.array([0, 1, 1, 1, 0, 1], bool)
    with pytest.raises(DataError, match=r"validation split is 1 with data\.positive_rating = 4:"):
        check_splits(alike, split, shares=SHARES, threshold=4)
    with pytest.raises(DataError, match="validation split is 1: .* add rows with label 0"):
        check_splits(alike, split, shares=SHARES, threshold=None)
