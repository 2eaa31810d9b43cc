"""Numbers and vectors as features."""

import numpy as np
import polars as pl
import pytest

from corellarec.base.errors import ConfigError, DataError
from corellarec.config import load_config
from corellarec.data.extend import append
from corellarec.data.log import Log
from corellarec.data.prepare import prepare
from data.test_tables import ITEMS, describe, write_log


def prepared(folder, more=""):
    write_log(folder)
    prepare(describe(folder, more=more), folder / "d")
    return Log.load(folder / "d")


def vectors(folder, vectors=None, items=None):
    path = folder / "vectors.parquet"
    items = ITEMS["sku"] if items is None else items
    if vectors is None:
        vectors = np.random.default_rng(0).normal(3, 7, size=(len(items), 4))
    pl.DataFrame({"item": items, "vector": pl.Series(vectors)}).write_parquet(path)
    return path


@pytest.mark.parametrize("kind", ["standardized", "both"])
def test_numbers_are_standardised_over_training(tmp_path, kind):
    log = prepared(tmp_path, f'numbers = "{kind}"')
    assert [f.name for f in log.features.item_values] == ["price"]
    assert ("price" in [f.name for f in log.features.item]) == (kind == "both")
    price = log.items["price"].to_numpy()
    known = np.isfinite(price)
    seen = price[known & (log.items["train_rows"].to_numpy() > 0)]
    expected = np.where(known, (price - seen.mean()) / seen.std(), 0)
    np.testing.assert_allclose(log.item_values[:, 0], expected, atol=1e-6)


def test_a_number_of_one_value_is_zero(tmp_path):
    write_log(tmp_path)
    ITEMS.with_columns(price=pl.lit(7.0)).write_csv(tmp_path / "items.csv")
    config = describe(tmp_path, more='numbers = "standardized"')
    prepare(config, tmp_path / "d")
    assert (Log.load(tmp_path / "d").item_values == 0).all()


def test_vectors_are_a_feature_of_items(tmp_path):
    path = vectors(tmp_path, items=ITEMS["sku"].head(20))
    log = prepared(tmp_path, f'item_vectors = "{path}"')
    assert [(f.name, f.width) for f in log.features.item_values] == [("vector", 4)]
    place = {name: i for i, name in enumerate(log.items["id"])}
    known = log.item_values[[place[f"s{i}"] for i in range(20)]].numpy()
    np.testing.assert_allclose(known.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(known.std(0), 1 / np.sqrt(4), atol=1e-5)  # of unit length
    assert (log.item_values[place["s22"]] == 0).all()  # it has none
    config = describe(tmp_path, more=f'item_vectors = "{path}"')
    assert prepare(config, tmp_path / "d").up_to_date
    vectors(tmp_path, items=ITEMS["sku"].head(21))
    assert not prepare(config, tmp_path / "d").up_to_date  # another file of the same name


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"vectors": ["a"] * 25}, "holds String, not lists of numbers"),
        ({"vectors": [[1.0, 2.0]] * 24 + [[1.0]]}, "one length, found 1, 2"),
        ({"items": ["s1"] * 2, "vectors": [[1.0]] * 2}, "item 's1' is listed twice"),
        ({"items": ["x"], "vectors": [[1.0]]}, "none of its items is among the log's: it has 'x'"),
    ],
)
def test_bad_vectors(tmp_path, given, message):
    path = vectors(tmp_path, **given)
    with pytest.raises(DataError, match=message):
        prepared(tmp_path, f'item_vectors = "{path}"')
    assert not (tmp_path / "d").exists()


def test_vectors_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match=r"none\.parquet is not there"):
        prepared(tmp_path, f'item_vectors = "{tmp_path}/none.parquet"')


def test_vectors_beside_a_feature_of_their_name(tmp_path):
    path = vectors(tmp_path)
    write_log(tmp_path)
    ITEMS.rename({"maker": "vector"}).write_csv(tmp_path / "items.csv")
    config = describe(tmp_path, more=f'item_vectors = "{path}"')
    items = config.items.model_copy(update={"categorical": ("vector",)})
    with pytest.raises(ConfigError, match="'vector' is listed twice.*item_vectors"):
        prepare(config.model_copy(update={"items": items}), tmp_path / "d")


def test_a_column_vector_that_is_no_feature_does_not_hide_the_vectors(tmp_path):
    """RecBole's tables keep sequences of floats, which are no features."""
    folder = tmp_path / "x"
    folder.mkdir()
    log = write_log(tmp_path)
    rows = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    rows += [f"{who}\t{sku}\t{stars}\t{when}" for who, sku, stars, when, _ in log.rows()]
    (folder / "x.inter").write_text("\n".join(rows) + "\n")
    items = ["item_id:token\ttitle:token_seq\tvector:float_seq"]
    items += [f"{sku}\t{name}\t0.1 0.2" for sku, name in ITEMS.select("sku", "name").rows()]
    (folder / "x.item").write_text("\n".join(items) + "\n")
    settings = [f"data.path={folder}", f"data.item_vectors={vectors(tmp_path)}"]
    prepare(load_config(settings=settings).data, tmp_path / "d")
    assert [(f.name, f.width) for f in Log.load(tmp_path / "d").features.item_values] == [
        ("vector", 4)
    ]


def codes(folder, name, side="items"):
    """The code of each trained id or value."""
    table = pl.read_parquet(folder / f"{side}.parquet").filter(pl.col("train_rows") > 0)
    token = "id" if name in ("item_id", "user_id") else name
    return dict(table.select(token, f"{name}_code").rows())


def test_values_beyond_a_vocabulary_share_embeddings(tmp_path):
    write_log(tmp_path)
    ITEMS.with_columns(maker=pl.lit("m") + pl.int_range(25).cast(pl.String)).write_csv(
        tmp_path / "items.csv"
    )
    facts = prepare(describe(tmp_path), tmp_path / "all")
    own = codes(tmp_path / "all", "maker")
    config = describe(tmp_path, more="vocabulary = { values = 6, shared = 3, ids = 4 }")
    facts = prepare(config, tmp_path / "few")
    shared = codes(tmp_path / "few", "maker")
    assert {token: code for token, code in shared.items() if code <= 6} == {
        token: code for token, code in own.items() if code <= 6
    }
    assert {code for code in shared.values() if code > 6} == {7, 8, 9}
    assert [f.vocabulary for f in facts.features.item if f.name == "maker"] == [10]
    assert sorted(set(codes(tmp_path / "few", "item_id").values())) == [1, 2, 3, 4, 5, 6, 7]
    assert max(codes(tmp_path / "few", "user_id", "users").values()) == 7
    assert any(
        "'maker' has 24 values in training: the 6 most frequent have an embedding of their own, "
        "the others share 3 by a hash" in warning
        for warning in facts.warnings
    )
    Log.load(tmp_path / "few")
    # Without shared ones they are like values that training never shows.
    config = describe(tmp_path, more="vocabulary = { values = 6, shared = 0 }")
    facts = prepare(config, tmp_path / "none")
    assert sorted(set(codes(tmp_path / "none", "maker").values())) == list(range(7))
    assert any("the others have none" in warning for warning in facts.warnings)


def test_a_hundred_thousand_categories(tmp_path):
    rows = 110_000
    log = pl.DataFrame({"who": pl.int_range(rows, eager=True) % 5000}).with_columns(
        sku=pl.lit("s") + pl.int_range(rows).cast(pl.String),
        stars=1 + pl.int_range(rows) * 7 % 5,
        when=1_700_000_000 + pl.int_range(rows),
    )
    log.write_csv(tmp_path / "log.csv")
    log.select("sku", name="sku", maker=pl.col("sku") + "m", tags=pl.lit(""), price=1.5).write_csv(
        tmp_path / "items.csv"
    )
    facts = prepare(describe(tmp_path), tmp_path / "d")
    assert [f.vocabulary for f in facts.features.item if f.name == "maker"] == [51_001]
    assert any("'maker' has 88,000 values in training: the 50,000" in w for w in facts.warnings)


def test_new_values_of_a_shared_vocabulary_are_out_of_it(tmp_path):
    log = prepared(tmp_path, "vocabulary = { values = 2, shared = 2 }")
    new = pl.DataFrame({"id": ["x", "y"], "maker": ["m0", "other"], "title": ["a", "b"]})
    features = log.features
    table = append(log.items, new, features.item, features.item_values)
    known = dict(log.items.select("maker", "maker_code").rows())
    assert table["maker_code"].tail(2).to_list() == [known["m0"], 0]
