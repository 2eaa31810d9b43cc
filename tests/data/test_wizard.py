import gzip

import polars as pl
import pytest

from conftest import write_movielens
from corellarec.base.errors import DataError
from corellarec.config import load_config
from corellarec.data.prepare import prepare
from corellarec.data.wizard import propose
from data.test_tables import ITEMS, write_log

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
    text, said = propose([tmp_path], {})
    (tmp_path / "shop.toml").write_text(text)
    data = load_config(files=[tmp_path / "shop.toml"]).data
    assert (data.interactions.user, data.interactions.time) == ("customer_id", "created_at")
    assert data.items.title == "name"
    assert data.items.categorical == ("maker",)
    assert data.items.multi == {"tags": "|"}
    assert data.items.numeric == ("price",)
    assert data.users.categorical == ("country",)
    assert data.positive_rating in (3, 4)
    assert any("products.csv" in line for line in said)
    facts = prepare(data, tmp_path / "d")
    assert facts.rows == 500
    assert facts.untitled_items == 0


def test_one_file_with_everything(tmp_path):
    log = write_log(tmp_path).join(ITEMS, on="sku").rename(LOG_NAMES)
    log.write_csv(tmp_path / "all.csv", separator=";")
    text, _ = propose([tmp_path / "all.csv"], {})
    (tmp_path / "all.toml").write_text(text)
    data = load_config(files=[tmp_path / "all.toml"]).data
    assert data.items.files is None
    assert data.interactions.separator == ";"
    assert "maker" in data.items.categorical
    assert prepare(data, tmp_path / "d").rows == 500


def test_what_cannot_be_told_is_asked_for(tmp_path):
    log = write_log(tmp_path)
    log.rename({"stars": "points"}).write_csv(tmp_path / "log.csv")
    with pytest.raises(DataError, match=r"log\.csv: no column looks like the user.*--user COLUMN"):
        propose([tmp_path], {})
    told = {"user": "who", "item": "sku", "time": "when"}
    with pytest.raises(DataError, match=r"rating or a label.*--rating COLUMN or --label"):
        propose([tmp_path / "log.csv"], told)
    with pytest.raises(DataError, match=r"items' title.*--title COLUMN"):
        propose([tmp_path / "log.csv"], {**told, "rating": "points"})
    text, _ = propose([tmp_path], {**told, "rating": "points", "title": "name"})
    assert 'rating = "points"' in text
    with pytest.raises(DataError, match="no column looks like the user"):
        propose([tmp_path], {**told, "user": "nobody"})
    with pytest.raises(DataError, match="is not there"):
        propose([tmp_path / "none.csv"], {})
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no tables found"):
        propose([tmp_path / "empty"], {})


def test_a_known_layout_needs_no_tables(tmp_path):
    folder = write_movielens(tmp_path / "ml")
    with pytest.raises(DataError, match=r"is read as it is.*--set data\.path"):
        propose([folder], {})


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
    text, _ = propose([tmp_path], {})
    (tmp_path / "shop.toml").write_text(text)
    data = load_config(files=[tmp_path / "shop.toml"]).data
    assert prepare(data, tmp_path / "d").rows == 500
