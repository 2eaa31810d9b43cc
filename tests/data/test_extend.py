"""Users and items that came after training."""

import numpy as np
import polars as pl
import torch

from corellarec.data.extend import append
from corellarec.data.log import Log


def test_a_known_items_features_get_its_codes(log):
    """Appended under another id, an item has the codes it has already, but for the id's."""
    features = log.features
    again = log.items.with_columns(id=pl.lit("new ") + pl.col("id"))
    more = append(log.items, again, features.item, features.item_values)
    assert more.height == 2 * log.items.height
    assert more.head(log.items.height).equals(log.items)
    new = more.tail(log.items.height)
    assert new["title"].to_list() == log.items["title"].to_list()
    assert (new["train_rows"] == 0).all()
    for feature in features.item[1:]:
        name = f"{feature.name}_code"
        assert new[name].to_list() == log.items[name].to_list(), name
    assert (new["item_id_code"] == 0).all()


def test_unknown_tokens_and_missing_features_are_out_of_vocabulary(log):
    features = log.features
    new = pl.DataFrame({"id": ["x"], "title": ["A film"], "year": ["1066"], "other": [1]})
    row = append(log.items, new, features.item, features.item_values).tail(1)
    for feature in features.item:
        assert np.all(row[f"{feature.name}_code"].to_numpy() == 0), feature.name
    assert row["genres"].to_list() == [None]


def test_numbers_fall_into_the_buckets_and_scales_of_training():
    table = pl.DataFrame(
        {"id": list("abcd"), "title": list("abcd"), "train_rows": [1, 1, 1, 1],
         "price": [1.0, 2.0, 5.0, None], "item_id_code": [1, 2, 3, 4],
         "price_code": pl.Series([1, 1, 2, 0], dtype=pl.Int32),
         "price_values": pl.Series([[-1.0], [-0.5], [1.0], [0.0]],
                                   dtype=pl.Array(pl.Float32, 1))},
        schema_overrides={"item_id_code": pl.Int32, "train_rows": pl.Int64},
    )  # fmt: skip
    from corellarec.data.log import FeatureLayout, ValueLayout

    codes = [FeatureLayout("item_id", 5, 1), FeatureLayout("price", 3, 1)]
    new = pl.DataFrame({"id": ["x", "y", "z"], "price": [4.9, 9.0, None]})
    made = append(table, new, codes, [ValueLayout("price", 1)]).tail(3)
    assert made["price_code"].to_list() == [1, 2, 0]
    assert made["price_values"].to_numpy().ravel().tolist() == [
        np.float32(0.95), np.float32(3.0), 0.0
    ]  # fmt: skip


def test_rows_that_came_later_are_history_in_order_of_time(log):
    user = int(log.user[0])
    own = log.rows.filter(pl.col("user") == user)
    middle = own["time"][1]
    new = pl.DataFrame(
        {"user": [user, user], "item": [7, 8], "label": [1, 0],
         "time": [middle, own["time"][-1]]},
        schema={"user": pl.Int32, "item": pl.Int32, "label": pl.Int8, "time": own["time"].dtype},
    ).with_columns(time=pl.col("time") + pl.duration(microseconds=1))  # fmt: skip
    longer = log.extended(new, log.users, log.items)
    assert len(longer) == len(log) + 2
    assert len(longer.extended(new, log.users, log.items)) == len(longer)  # idempotent
    begin, end = longer.history_range(torch.tensor([user]))
    assert longer.history_item[begin:end].tolist()[-1] == 8
    assert (longer.time[begin:end].diff() >= 0).all()
    for split in ("train", "validation", "test"):
        assert len(longer.rows_of(split)) == len(log.rows_of(split))
    assert (longer.liked[1] == log.liked[1]).all()
    assert isinstance(longer, Log)
