"""Rows divided into shards in passes over files, none of which is opened for each shard."""

import numpy as np
import polars as pl
import pytest

from corellarec.batch import freeze
from corellarec.batch.freeze import HASH


@pytest.mark.parametrize(("fan", "shards"), [(2, 1), (2, 2), (2, 11), (3, 27), (128, 5)])
def test_every_row_is_in_its_shard_once(tmp_path, monkeypatch, fan, shards):
    monkeypatch.setattr(freeze, "FAN", fan)
    hashes = np.random.default_rng(0).integers(0, 2**64, 300, dtype=np.uint64)
    rows = pl.DataFrame({HASH: hashes, "number": range(300), "note": [f"n{i}" for i in range(300)]})
    tables = iter([rows[:1], rows[1:200], rows[200:]])
    found = list(freeze._by_shard(tables, range(shards), shards, tmp_path))
    assert len(found) == shards
    for shard, table in enumerate(found):
        assert table["number"].is_sorted()
        assert (table[HASH] % shards == shard).all()
    assert pl.concat(found).sort("number").equals(rows)
    assert not list(tmp_path.iterdir())
