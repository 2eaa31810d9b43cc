"""Your own logs, described in TOML."""

import gzip
import random
import re
import sqlite3

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corellarec.base.errors import ConfigError, DataError
from corellarec.config import load_config
from corellarec.data.log import Log
from corellarec.data.prepare import prepare
from corellarec.data.splits import HISTORY_ONLY

ITEMS = pl.DataFrame(
    {
        "sku": [f"s{i}" for i in range(25)],
        "name": [f"Thing {i}" for i in range(25)],
        "maker": [f"m{i % 4}" for i in range(25)],
        "tags": ["|".join(["red", "big", "red", "new"][: i % 5]) for i in range(25)],
        "price": [None if i == 3 else float(i) for i in range(25)],
    }
)


def write_log(folder, rows=500, seed=0):
    generator = np.random.default_rng(seed)
    log = pl.DataFrame(
        {
            "who": [f"w{u}" for u in generator.integers(0, 20, rows)],
            "sku": [f"s{i}" for i in generator.integers(0, 24, rows)],
            "stars": generator.integers(1, 6, rows),
            "when": 1_700_000_000 + 60 * np.arange(rows),
            "event": generator.choice(["view", "cart", "buy"], rows),
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    log.write_csv(folder / "log.csv")
    ITEMS.write_csv(folder / "items.csv")
    return log


def describe(folder, interactions="", items="", more="", log="log.csv"):
    """The tables' section of a configuration, as a TOML file would say it."""
    path = folder / "config.toml"
    path.write_text(
        f"""
[data]
{more}
[data.interactions]
files = "{folder}/{log}"
user = "who"
item = "sku"
time = "when"
{interactions or 'rating = "stars"'}
[data.items]
{items or f'files = "{folder}/items.csv"'}
title = "name"
categorical = ["maker"]
multi = {{ tags = "|" }}
numeric = ["price"]
"""
    )
    return load_config(files=[path]).data


def tables(directory):
    return [pl.read_parquet(directory / f"{name}.parquet") for name in ("rows", "users", "items")]


def test_a_log_of_csv_files(tmp_path):
    log = write_log(tmp_path)
    facts = prepare(describe(tmp_path), tmp_path / "d")
    rows, users, items = tables(tmp_path / "d")
    assert facts.rows == 500
    assert facts.positives == (log["stars"] >= 4).sum()
    named = rows.select(
        users["id"].gather(rows["user"]).alias("who"),
        items["id"].gather(rows["item"]).alias("sku"),
        pl.col("time").dt.epoch("s").alias("when"),
        "label",
    )
    expected = log.select("who", "sku", "when", label=(pl.col("stars") >= 4).cast(pl.Int8))
    assert named.sort("when").equals(expected.sort("when"))
    prepared = Log.load(tmp_path / "d")
    assert [f.name for f in prepared.features.item] == ["item_id", "maker", "price", "tags"]
    row = items.row(by_predicate=pl.col("id") == "s9", named=True)
    assert row["tags"] == ["red", "big", "new"]
    assert row["title"] == "Thing 9"
    codes = items["price_code"].to_numpy()
    assert codes[items["price"].is_null()].tolist() == [0]
    known = items.drop_nulls("price").sort("price")
    assert known["price_code"].is_sorted()
    assert known["price_code"].n_unique() > 15


@pytest.mark.parametrize(
    "kind", ["csv.gz", "csv.zst", "tsv", "parquet", "jsonl", "glob", "latin", "colons"]
)
def test_every_kind_of_file_holds_the_same_log(tmp_path, kind):
    log = write_log(tmp_path / "a")
    prepare(describe(tmp_path / "a"), tmp_path / "x")
    folder, name, more = tmp_path / "a", f"log2.{kind}", 'rating = "stars"'
    content = (folder / "log.csv").read_bytes()
    if kind == "csv.gz":
        (folder / name).write_bytes(gzip.compress(content))
    elif kind == "csv.zst":
        log.lazy().sink_csv(folder / name, compression="zstd")
    elif kind == "tsv":
        log.write_csv(folder / name, separator="\t")
    elif kind == "parquet":
        log.with_columns(pl.from_epoch("when")).write_parquet(folder / name)
    elif kind == "jsonl":
        log.write_ndjson(folder / name)
    elif kind == "colons":
        (folder / name).write_bytes(content.replace(b",", b"::"))
        more += '\nseparator = "::"'
    elif kind == "latin":
        (folder / name).write_bytes(content)
        more += '\nencoding = "latin-1"\nseparator = ","'
    else:
        name = "part*.csv"
        log[:200].write_csv(folder / "part1.csv")
        log[200:].write_csv(folder / "part2.csv")
    prepare(describe(folder, more, log=name), tmp_path / "y")
    for one, other in zip(tables(tmp_path / "x"), tables(tmp_path / "y"), strict=True):
        assert one.equals(other)


def test_databases(tmp_path, monkeypatch):
    log = write_log(tmp_path)
    prepare(describe(tmp_path), tmp_path / "x")
    connection = sqlite3.connect(tmp_path / "log.db")
    connection.execute("create table log (who text, sku text, stars int, t int)")
    connection.executemany("insert into log values (?, ?, ?, ?)", log.drop("event").rows())
    connection.commit()
    connection.close()
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect(str(tmp_path / "log.duckdb")) as database:
        database.execute(
            f"create table log as select *, \"when\" as t from read_csv('{tmp_path}/log.csv')"
        )
    monkeypatch.setenv("LOG_DATABASE", str(tmp_path / "log.db"))
    query = {"files": None, "time": "t", "query": "select who, sku, stars, t from log"}
    config = describe(tmp_path)
    for database in ("$LOG_DATABASE", str(tmp_path / "log.duckdb")):
        asked = config.interactions.model_copy(update={**query, "database": database})
        config = config.model_copy(update={"interactions": asked})
        prepare(config, tmp_path / "y")
        for one, other in zip(tables(tmp_path / "x"), tables(tmp_path / "y"), strict=True):
            assert one.equals(other)
    wrong = config.interactions.model_copy(update={"query": "select nothing from log"})
    with pytest.raises(DataError, match=r"data\.interactions\.query: .*nothing"):
        prepare(config.model_copy(update={"interactions": wrong}), tmp_path / "y")
    monkeypatch.delenv("LOG_DATABASE")
    wrong = config.interactions.model_copy(update={"database": "$LOG_DATABASE"})
    with pytest.raises(ConfigError, match="no variable LOG_DATABASE"):
        prepare(config.model_copy(update={"interactions": wrong}), tmp_path / "y")


def test_labels_of_every_kind(tmp_path):
    log = write_log(tmp_path)
    expected = int((log["event"] == "buy").sum())
    facts = prepare(
        describe(tmp_path, 'label = "event"\npositive_values = ["buy"]'), tmp_path / "d"
    )
    assert facts.positives == expected
    bought = pl.col("event") == "buy"
    words = pl.when(bought).then(pl.lit("Yes")).otherwise(pl.lit("no"))
    labels = (bought, bought.cast(pl.Int8), bought.cast(pl.Float64), words)
    for number, label in enumerate(labels):
        log.with_columns(liked=label).write_csv(tmp_path / f"l{number}.csv")
        config = describe(tmp_path, 'label = "liked"', log=f"l{number}.csv")
        assert prepare(config, tmp_path / "d").positives == expected
    with pytest.raises(DataError, match=r"log\.csv, line 2: label '\d' is not 0 or 1"):
        prepare(describe(tmp_path, 'label = "stars"'), tmp_path / "d")


def test_labels_that_are_all_alike_have_no_threshold_to_choose(tmp_path):
    log = write_log(tmp_path)
    log.with_columns(
        liked=pl.int_range(pl.len()) % 2 * (pl.col("when") < log["when"][450])
    ).write_csv(tmp_path / "log.csv")
    with pytest.raises(
        DataError, match="test split is 0: .*data.split.*rows with label 1"
    ) as found:
        prepare(describe(tmp_path, 'label = "liked"'), tmp_path / "d")
    assert "positive_rating" not in str(found.value)


def test_a_rating_that_is_no_binary_fraction_reaches_itself(tmp_path):
    log = write_log(tmp_path)
    log.with_columns(pl.col("stars") + 0.3).write_csv(tmp_path / "log.csv")
    facts = prepare(describe(tmp_path, more="positive_rating = 3.3"), tmp_path / "d")
    assert facts.positives == (log["stars"] >= 3).sum()


def test_given_splits_are_honoured_and_questioned(tmp_path):
    log = write_log(tmp_path)
    names = pl.Series(random.Random(0).choices(["train", "valid", "TEST"], [6, 2, 2], k=500))
    log.with_columns(part=names).write_csv(tmp_path / "log.csv")
    config = describe(tmp_path, 'rating = "stars"\nsplit = "part"')
    facts = prepare(config, tmp_path / "d")
    assert facts.splits["test"].rows == (names == "TEST").sum()
    assert any("given test split begins" in warning for warning in facts.warnings)
    log.with_columns(part=pl.lit("other")).write_csv(tmp_path / "log.csv")
    with pytest.raises(DataError, match="the split column holds 'other'; it may hold train"):
        prepare(config, tmp_path / "d")


def test_features_may_stand_in_the_log_itself(tmp_path):
    log = write_log(tmp_path)
    joined = log.join(ITEMS, on="sku").sort("when")
    later = pl.when(pl.int_range(pl.len()).over("sku") > 0).then(pl.lit("later"))
    joined = joined.with_columns(maker=pl.coalesce(later, "maker"))
    joined.sample(fraction=1.0, shuffle=True, seed=1).write_csv(tmp_path / "log.csv")
    config = describe(tmp_path, items=" ")
    prepare(config, tmp_path / "x")
    items = tables(tmp_path / "x")[2]
    first = joined.unique("sku", keep="first", maintain_order=True).sort("sku")
    assert items["maker"].to_list() == first["maker"].to_list()  # the earliest value
    assert "later" not in items["maker"]


def test_a_feature_in_the_log_may_have_any_name(tmp_path):
    """Also ``time``, and those that the reader uses for columns of its own."""
    log = write_log(tmp_path).join(ITEMS, on="sku")
    log = log.rename({"maker": "time", "price": "title 0", "tags": "column time"})
    log.write_csv(tmp_path / "log.csv")
    config = describe(tmp_path, items=" ")
    features = {"categorical": ("time",), "numeric": ("title 0",), "multi": {"column time": "|"}}
    prepare(
        config.model_copy(update={"items": config.items.model_copy(update=features)}),
        tmp_path / "d",
    )
    items = tables(tmp_path / "d")[2]
    expected = ITEMS.filter(pl.col("sku").is_in(items["id"].implode())).sort("sku")
    assert items["id"].to_list() == expected["sku"].to_list()
    assert items["title"].to_list() == expected["name"].to_list()
    assert items["time"].to_list() == expected["maker"].to_list()
    assert items["title 0"].to_list() == expected["price"].to_list()


def test_a_template_makes_the_title(tmp_path):
    write_log(tmp_path)
    config = describe(tmp_path)
    changed = config.items.model_copy(update={"title": "{name} by {maker}"})
    prepare(config.model_copy(update={"items": changed}), tmp_path / "d")
    assert "Thing 5 by m1" in tables(tmp_path / "d")[2]["title"]


def test_mistakes_are_named(tmp_path):
    write_log(tmp_path)
    config = describe(tmp_path)

    def change(section, **values):
        return config.model_copy(
            update={section: getattr(config, section).model_copy(update=values)}
        )

    for changed, message in (
        (change("interactions", files="none*.csv"), "none.*matches no file"),
        (change("interactions", user="wo"), "log.csv, line 1: no column 'wo'; found: who, sku"),
        (change("items", numeric=("weight",)), "items.csv, line 1: no column 'weight'"),
        (change("items", categorical=("title",)), "cannot be called 'title'"),
        (change("items", categorical=("maker", "price_code")), "cannot be called 'price_code'"),
        (change("items", categorical=("maker", "price")), "'price' is listed twice"),
        (change("items", encoding="martian"), "'martian' is no text encoding"),
    ):
        with pytest.raises((DataError, ConfigError), match=message):
            prepare(changed, tmp_path / "d")
    ITEMS.with_columns(pl.lit("s1").alias("sku")).write_csv(tmp_path / "items.csv")
    with pytest.raises(DataError, match="item 's1' is listed twice"):
        prepare(config, tmp_path / "d")
    (tmp_path / "items.csv").write_text("sku,name,maker,tags,price\ns1,a\ns2,b,c,d,1,2,3\n")
    with pytest.raises(DataError, match=r"items\.csv, line 2: 2 values where 5"):
        prepare(config, tmp_path / "d")
    log = pl.read_csv(tmp_path / "log.csv").with_columns(who=pl.int_range(pl.len()) / 2)
    log.write_parquet(tmp_path / "log.parquet")  # as a missing id makes them
    with pytest.raises(DataError, match="'who' holds Float64; ids are text or whole numbers: cast"):
        prepare(describe(tmp_path, log="log.parquet"), tmp_path / "d")
    assert not (tmp_path / "d").exists()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 100),
    min_user_rows=st.integers(0, 12),
    min_item_rows=st.integers(0, 12),
    min_history=st.integers(0, 4),
)
def test_core_and_history_only(tmp_path_factory, seed, min_user_rows, min_item_rows, min_history):
    folder = tmp_path_factory.mktemp("log")
    log = write_log(folder, rows=200, seed=seed)
    config = describe(
        folder,
        more=f"min_user_rows = {min_user_rows}\nmin_item_rows = {min_item_rows}\n"
        f"min_history = {min_history}",
    )
    expected = log
    while True:  # the definition, one side after the other
        users = expected.filter(pl.len().over("who") >= min_user_rows)
        both = users.filter(pl.len().over("sku") >= min_item_rows)
        if both.height == expected.height:
            break
        expected = both
    samples = expected.filter(pl.int_range(pl.len()).over("who") >= min_history)
    try:
        facts = prepare(config, folder / "d")
    except DataError as error:
        few = samples.height < 200 and "every label in the" in str(error)
        assert few or samples.height < 120, error  # noqa: PT017
        return
    rows, users, items = tables(folder / "d")
    assert rows.height == expected.height
    assert facts.left_out.rows_below_core == log.height - expected.height
    assert facts.rows == samples.height
    assert facts.history_only_rows == expected.height - samples.height
    assert set(users["id"]) == set(expected["who"])
    early = rows.with_columns(place=pl.int_range(pl.len()).over("user"))
    assert ((early["place"] < min_history) == (early["split"] == HISTORY_ONLY)).all()
    # Vocabularies: what stands in rows up to the end of training, no more.
    cut = rows.filter(pl.col("split") == 0)["time"].max()
    seen = rows.filter((pl.col("split") == 0) | ((pl.col("split") == 3) & (pl.col("time") <= cut)))
    for table, side in ((users, "user"), (items, "item")):
        known = table.with_row_index("n").filter(pl.col(f"{side}_id_code") > 0)["n"]
        assert set(known) == set(seen[side])


def test_warnings(tmp_path):
    log = write_log(tmp_path)
    odd = log.with_columns(
        pl.col("when") // 1000,
        pl.format("{}.0", pl.col("who").str.slice(1)).alias("who"),
    )
    pl.concat([odd, odd[:50]]).write_csv(tmp_path / "log.csv")
    ITEMS.with_columns(name=pl.lit("Thing")).write_csv(tmp_path / "items.csv")
    facts = prepare(describe(tmp_path), tmp_path / "d")
    found = " ".join(facts.warnings)
    assert "550 rows are from before 1980" in found
    assert "user ids look like floats ('0.0')" in found
    assert "share 1 titles" in found
    assert re.search(r"\d\d rows repeat another one's", found)
    write_log(tmp_path / "good")
    assert prepare(describe(tmp_path / "good"), tmp_path / "e").warnings == ()


def test_a_history_only_log_of_positives(tmp_path):
    write_log(tmp_path)
    prepare(describe(tmp_path, more='history = "positives"'), tmp_path / "d")
    log = Log.load(tmp_path / "d")
    assert log.history == "positives"
    assert len(log.history_item) == int(log._label.sum())
