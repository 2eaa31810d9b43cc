import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from corellarec.batch.cut import find_cut, ordered

numbers = st.sampled_from([0, 1, 2**16, 2**48 - 1, 2**48, 2**63, 2**64 - 1]) | st.integers(
    0, 2**64 - 1
)
shards = st.lists(st.lists(numbers, max_size=12), min_size=1, max_size=4)


@settings(max_examples=150, deadline=None)
@given(shards, st.integers(0, 40), st.integers(0, 99))
def test_the_most_valuable_rows_are_routed(tmp_path_factory, shards, count, seed):
    folder = tmp_path_factory.mktemp("cut")
    files, rows = [], []
    every_key = iter(np.random.default_rng(seed).permutation(48).tolist())  # no key is twice
    for number, values in enumerate(shards):
        keys = [next(every_key) * 0x9E3779B97F4A7C15 % 2**64 for _ in values]
        rows += zip(values, keys, strict=True)
        files.append(folder / f"{number}.parquet")
        frame = {"value": values, "key": keys}
        pl.DataFrame(frame, schema={"value": pl.UInt64, "key": pl.UInt64}).write_parquet(files[-1])
    cut = find_cut(files, rows=100, allowed=count)
    value, key = (np.array([row[i] for row in rows], np.uint64) for i in (0, 1))
    routed = cut.routes(value, key)
    assert cut.above == len(rows)
    assert cut.routed == routed.sum() == min(count, len(rows))
    best = sorted(rows, reverse=True)[: cut.routed]
    assert sorted(row for row, chosen in zip(rows, routed, strict=True) if chosen) == sorted(best)


@given(st.lists(st.floats(allow_nan=False), min_size=2))
def test_floats_keep_their_order(values):
    given = np.array(values)
    numbers = ordered(given)
    for i in range(len(given) - 1):
        assert (given[i] < given[i + 1]) == (numbers[i] < numbers[i + 1])
        assert (given[i] == given[i + 1]) == (numbers[i] == numbers[i + 1])
