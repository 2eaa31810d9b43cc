import gzip
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from corellarec.base.errors import DataError
from corellarec.config import parse_config
from corellarec.data.prepare import prepare
from corellarec.data.wizard import propose_settings
from data.test_tables import ITEMS, write_log
from small import write_movielens

LOG_NAMES = {"who": "customer_id", "stars": "Rating", "when": "created_at", "sku": "product_id"}


def write_shop(folder):
    log = write_log(folder)
    log.rename(LOG_NAMES).write_parquet(folder / "orders.parquet")
    ITEMS.rename({"sku": "product_id"}).write_csv(folder / "products.csv")
    pl.DataFrame(
        {"customer_id": [f"w{u}" for u in range(20)], "country": ["NO", "IS"] * 10}
    ).write_csv(folder / "customers.tsv", separator="\t")
    for name in ("log.csv", "items.csv"):
        (folder / name).unlink()


def test_a_directory_becomes_a_configuration_that_works(tmp_path):
    write_shop(tmp_path)
    proposal = propose_settings([tmp_path], {})
    data = parse_config(proposal.settings).data
    assert (data.interactions.user, data.interactions.time) == ("customer_id", "created_at")
    assert data.items.title == "name"
    assert data.items.categorical == ("maker",)
    assert data.items.multi == {"tags": "|"}
    assert data.items.numeric == ("price",)
    assert data.users.categorical == ("country",)
    assert data.positive_rating in (3, 4)
    assert any("products.csv" in line for line in proposal.guesses)
    facts = prepare(data, tmp_path / "d")
    assert facts.rows == 500
    assert facts.untitled_items == 0


def test_prices_with_codes_and_missing_ones_are_numbers(tmp_path):
    """As in the reading: it warns of several currencies, which nobody sees of what is left out."""
    write_log(tmp_path)
    shown = pl.Series(["$ {}.50", "{} USD", "{} €", "n/a", "-"]).gather(list(range(5)) * 5)
    prices = [form.format(n) for n, form in enumerate(shown)]
    prices += [f"{n} CHF" for n in range(30, 55)]
    items = {"sku": [f"s{n}" for n in range(50)], "name": [f"Thing {n}" for n in range(50)]}
    pl.DataFrame({**items, "price": prices}).write_csv(tmp_path / "items.csv")
    data = parse_config(propose_settings([tmp_path], {}).settings).data
    assert data.items.numeric == ("price",)
    found = " ".join(prepare(data, tmp_path / "d").warnings)
    assert "prices in 4 currencies (CHF 25, " in found
    assert "are no numbers" not in found
    pl.DataFrame({**items, "price": [*prices[:-1], "on request"]}).write_csv(tmp_path / "items.csv")
    assert not parse_config(propose_settings([tmp_path], {}).settings).data.items.numeric


def test_one_file_with_everything(tmp_path):
    log = write_log(tmp_path).join(ITEMS, on="sku").rename(LOG_NAMES)
    log.write_csv(tmp_path / "all.csv", separator=";")
    data = parse_config(propose_settings([tmp_path / "all.csv"], {}).settings).data
    assert data.items.files is None
    assert data.interactions.separator == ";"
    assert "maker" in data.items.categorical
    assert prepare(data, tmp_path / "d").rows == 500


def test_what_cannot_be_told_is_asked_for_all_at_once(tmp_path):
    write_log(tmp_path)
    cut = pl.read_csv(tmp_path / "log.csv").with_columns(x=pl.col("stars") * 1.37 - 8)
    cut.select("x").write_csv(tmp_path / "log.csv")
    with pytest.raises(
        DataError,
        match=r"log\.csv: no column looks like the user or the item or the time or the items' "
        r"title.*--user COLUMN, --item COLUMN, --time COLUMN, --title COLUMN .*; found: x",
    ):
        propose_settings([tmp_path / "log.csv"], {})
    write_log(tmp_path)
    with pytest.raises(DataError, match="no column 'nobody' for the user; found: who, sku"):
        propose_settings([tmp_path], {"user": "nobody"})
    with pytest.raises(DataError, match="is not there"):
        propose_settings([tmp_path / "none.csv"], {})
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no tables found"):
        propose_settings([tmp_path / "empty"], {})


@pytest.mark.parametrize(
    ("user", "item", "time", "value"),
    [
        ("Member_number", "imdb_id", "tweeted_at", "bought"),
        ("who", "what", "when", "points"),
        ("a", "b", "c", "d"),
    ],
)
def test_columns_of_any_name_are_told_by_what_they_hold(tmp_path, user, item, time, value):
    log = write_log(tmp_path).drop("event")
    log = log.rename({"who": user, "sku": item, "when": time, "stars": value})
    if value == "bought":
        log = log.with_columns((pl.col(value) > 3).cast(pl.Int8))
    log.write_csv(tmp_path / "log.csv")
    found = propose_settings([tmp_path], {}).settings["data"]
    roles = {name: found["interactions"].get(name) for name in ("user", "item", "time")}
    assert roles == {"user": user, "item": item, "time": time}
    kind = "label" if value == "bought" else "rating"
    assert found["interactions"][kind] == value
    assert (found["items"]["id"], found["items"]["title"]) == ("sku", "name")


def test_a_scale_may_lack_its_lowest_steps(tmp_path):
    """Of 0 to 10 nobody gave less than 2: such a log was taken for one without ratings."""
    log = write_log(tmp_path).with_columns(points=2 * pl.col("stars"), kind=3 + pl.col("stars") % 3)
    log.select("who", "sku", "points", "when").write_csv(tmp_path / "log.csv")
    found = propose_settings([tmp_path], {}).settings["data"]
    assert (found["interactions"]["rating"], found["positive_rating"]) == ("points", 8)
    log.select("who", "sku", "kind", "when", "stars").rename({"stars": "points"}).write_csv(
        tmp_path / "log.csv"
    )
    found = propose_settings([tmp_path], {}).settings["data"]
    assert found["interactions"]["rating"] == "points"  # a whole scale goes before


def test_what_was_guessed_is_shown_with_values(tmp_path):
    write_shop(tmp_path)
    uses = {(use.table, use.column): use for use in propose_settings([tmp_path], {}).uses}
    assert uses["orders.parquet", "customer_id"].use == "user"
    assert uses["products.csv", "name"].use == "title"
    assert uses["products.csv", "name"].values == ("Thing 0", "Thing 1", "Thing 2")
    assert uses["customers.tsv", "country"].use == "categorical"


def test_a_known_layout_needs_no_tables(tmp_path):
    folder = write_movielens(tmp_path / "ml")
    proposal = propose_settings([folder], {})
    assert proposal.settings["data"]["path"] == str(folder)
    assert "layout movielens" in proposal.guesses[0]
    with pytest.raises(DataError, match=r"no tables found"):
        propose_settings([folder], {}, "tables")


def test_text_in_the_ways_of_the_world(tmp_path):
    """Decimal commas, days first, latin-1, a byte order mark, and no names of columns."""
    log = write_log(tmp_path)
    day = pl.from_epoch("when").dt.strftime("%d/%m/%Y %H:%M")
    rows = log.select("who", "sku", (pl.col("stars") + 0.5).cast(pl.String), day)
    lines = [";".join(row).replace(".5;", ",5;") for row in rows.rows()]
    (tmp_path / "log.csv").write_text("who;sku;stars;when\n" + "\n".join(lines), "utf-8-sig")
    named = ITEMS.with_columns(pl.format("Ærøskøbing {}", "name").alias("name"))
    (tmp_path / "items.csv").write_bytes(named.write_csv().encode("latin-1"))
    found = propose_settings([tmp_path], {}).settings
    assert found["data"]["interactions"]["decimal"] == ","
    assert found["data"]["interactions"]["time_format"] == "%d/%m/%Y %H:%M"
    assert found["data"]["items"]["encoding"] == "latin-1"
    prepare(parse_config(found).data, tmp_path / "d")
    rows, items = (pl.read_parquet(tmp_path / "d" / f"{n}.parquet") for n in ("rows", "items"))
    assert rows.height == 500
    assert rows["time"].min() == datetime.fromtimestamp(1_700_000_000 // 60 * 60, UTC)
    assert items["title"].str.starts_with("Ærøskøbing Thing").all()


@pytest.mark.parametrize("name", ["LOG.PARQUET", "LOG.JSON", "LOG.CSV", "LOG.CSV.GZ"])
def test_names_in_upper_case_are_read_as_in_lower(tmp_path, name):
    log = write_log(tmp_path).rename(LOG_NAMES)
    (tmp_path / "log.csv").unlink()
    ITEMS.rename({"sku": "product_id"}).write_csv(tmp_path / "items.csv")
    match name:
        case "LOG.PARQUET":
            log.write_parquet(tmp_path / name)
        case "LOG.JSON":
            log.write_ndjson(tmp_path / name)
        case "LOG.CSV":
            log.write_csv(tmp_path / name)
        case _:
            (tmp_path / name).write_bytes(gzip.compress(log.write_csv().encode()))
    data = parse_config(propose_settings([tmp_path], {}).settings).data
    assert prepare(data, tmp_path / "d").rows == 500


# Tables of types, as a user's data frames give them.

ROWS = 400


def write_frames(folder, **changes):
    """``interactions``, ``items`` and ``users`` as Parquet files; ``changes`` replace them."""
    generator = np.random.default_rng(0)
    item = np.arange(1, 31)
    start = datetime(2024, 1, 1)
    frames = {
        "interactions": pl.DataFrame(
            {
                "user": generator.integers(1, 21, ROWS),
                "item": generator.integers(1, 31, ROWS),
                "rating": generator.integers(1, 6, ROWS),
                "time": [start + timedelta(hours=i) for i in range(ROWS)],
            }
        ),
        "items": pl.DataFrame(
            {
                "item_id": item,
                "title": [f"Film {i}" for i in item],
                "genres": [["Drama", "Comedy", "War"][: 1 + i % 3] for i in item],
                "embedding": [[0.5, float(i)] for i in item],
                "year": 1990 + item % 7,
                "price": item / 7,
                "uploader": item % 3,
                "poster": [{"width": 1}] * 30,
            }
        ),
        "users": pl.DataFrame({"id": np.arange(1, 21), "member": [True, False] * 10}),
    } | changes
    folder.mkdir(exist_ok=True)
    for name, frame in frames.items():
        frame.write_parquet(folder / f"{name}.parquet")
    return frames


def test_tables_of_types(tmp_path):
    frames = write_frames(tmp_path / "x[1]")  # glob's own characters
    proposal = propose_settings([tmp_path / "x[1]"], {})
    assert proposal.settings["data"]["items"] == {
        "files": str(tmp_path / "x[1]" / "items.parquet"),
        "id": "item_id",
        "title": "title",
        "categorical": ["year", "uploader"],
        "multi": {"genres": "|"},
        "numeric": ["price"],
    }
    assert proposal.settings["data"]["users"]["id"] == "id"
    assert proposal.settings["data"]["users"]["categorical"] == ["member"]
    assert "left out: embedding, poster" in proposal.guesses[2]
    facts = prepare(parse_config(proposal.settings).data, tmp_path / "d")
    assert facts.rows == ROWS
    assert facts.untitled_items == 0
    assert facts.splits["train"].first == frames["interactions"]["time"][0].replace(tzinfo=UTC)
    users = pl.read_parquet(tmp_path / "d" / "users.parquet")
    assert dict(users.select("id", "member").rows())["1"] == "true"
    items = pl.read_parquet(tmp_path / "d" / "items.parquet")
    assert items.row(by_predicate=pl.col("id") == "2", named=True)["genres"] == [
        "Drama", "Comedy", "War"
    ]  # fmt: skip


def test_ids_that_the_tables_call_otherwise(tmp_path):
    items = write_frames(tmp_path)["items"]
    items.rename({"item_id": "number"}).write_parquet(tmp_path / "items.parquet")
    found = propose_settings([tmp_path], {}).settings["data"]
    assert found["items"]["id"] == "number"  # it holds the log's ids
    elsewhere = items.rename({"item_id": "number"}).with_columns(pl.col("number") + 1000)
    elsewhere.write_parquet(tmp_path / "items.parquet")
    with pytest.raises(
        DataError, match=r"items\.parquet: .* the item's id; call it 'item' .*items\.id"
    ):
        propose_settings([tmp_path], {})
    found = propose_settings([tmp_path], {"items.id": "number"}).settings["data"]
    assert found["items"]["id"] == "number"
    items.rename({"item_id": "item", "uploader": "product_id"}).write_parquet(
        tmp_path / "items.parquet"
    )
    found = propose_settings([tmp_path], {}).settings["data"]
    assert found["items"]["id"] == "item"  # what the log calls it goes before what it looks like


def test_an_item_table_that_names_a_user_is_not_the_table_of_users(tmp_path):
    items = write_frames(tmp_path)["items"].rename({"uploader": "user"})
    items.write_parquet(tmp_path / "items.parquet")
    assert (
        propose_settings([tmp_path], {})
        .settings["data"]["users"]["files"]
        .endswith("users.parquet")
    )
    (tmp_path / "users.parquet").unlink()
    assert "users" not in propose_settings([tmp_path], {}).settings["data"]


def test_the_id_is_not_the_title(tmp_path):
    frames = write_frames(tmp_path)
    frames["interactions"].rename({"item": "name"}).write_parquet(tmp_path / "interactions.parquet")
    items = frames["items"].drop("title").rename({"item_id": "name"})
    items.write_parquet(tmp_path / "items.parquet")
    roles = {"item": "name"}
    with pytest.raises(DataError, match=r"items\.parquet: no column looks like the title"):
        propose_settings([tmp_path], roles)
    with pytest.raises(DataError, match="no column looks like the items' title"):
        propose_settings([tmp_path / "interactions.parquet"], roles)
    found = propose_settings([tmp_path], {**roles, "title": "{name} of {year}"}).settings["data"]
    assert found["items"]["title"] == "{name} of {year}"


@pytest.mark.parametrize("name", ["liked", "label", "rating", "finished"])
def test_a_boolean_is_a_label_whatever_it_is_called(tmp_path, name):
    log = write_frames(tmp_path)["interactions"]
    log.select("user", "item", "time", (pl.col("rating") > 3).alias(name)).write_parquet(
        tmp_path / "interactions.parquet"
    )
    settings = propose_settings([tmp_path], {}).settings
    assert settings["data"]["interactions"]["label"] == name
    assert "positive_rating" not in settings["data"]
    facts = prepare(parse_config(settings).data, tmp_path / "d")
    assert facts.positives == (log["rating"] > 3).sum()


def test_two_booleans_are_not_guessed_between(tmp_path):
    log = write_frames(tmp_path)["interactions"].drop("rating")
    log.with_columns(a=pl.lit(True), b=pl.lit(False)).write_parquet(
        tmp_path / "interactions.parquet"
    )
    with pytest.raises(DataError, match=r"rating or a label.*--label COLUMN"):
        propose_settings([tmp_path], {})


def test_one_table_of_types_with_lists(tmp_path):
    frames = write_frames(tmp_path)
    items = (
        frames["items"]
        .select("title", "genres", item="item_id")
        .with_columns(
            codes=pl.Series([[i, i + 1] for i in range(30)], dtype=pl.Array(pl.Int64, 2)),
            title_code=pl.lit("x"),
        )
    )
    path = tmp_path / "all.parquet"
    frames["interactions"].join(items, on="item").write_parquet(path)
    proposal = propose_settings([path], {})
    assert "left out: title_code" in proposal.guesses[-1]
    facts = prepare(parse_config(proposal.settings).data, tmp_path / "d")
    assert facts.rows == ROWS
    found = pl.read_parquet(tmp_path / "d" / "items.parquet")
    row = found.row(by_predicate=pl.col("id") == "3", named=True)
    assert (row["title"], row["genres"], row["codes"]) == ("Film 3", ["Drama"], ["2", "3"])


def test_other_files_in_the_directory_are_no_tables(tmp_path):
    write_shop(tmp_path)
    expected = propose_settings([tmp_path], {}).settings
    (tmp_path / "README.txt").write_text("This, is the log, of a shop.\nIt has words.\n\nBye: now")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "one.dat").write_text("7")
    assert propose_settings([tmp_path], {}).settings == expected
