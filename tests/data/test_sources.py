"""Logs in the layouts that others publish."""

import gzip
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from corellarec.base.errors import ConfigError, DataError
from corellarec.config import load_config
from corellarec.data.log import Log
from corellarec.data.prepare import prepare

GENRES = ("Drama", "Comedy", "Horror", "(no genres listed)")


def ratings(rows=600, users=20, items=30):
    generator = np.random.default_rng(0)
    return [
        (f"{generator.integers(1, users)}", f"{generator.integers(1, items)}",
         float(generator.integers(1, 11)) / 2, 900_000_000 + 60 * i)
        for i in range(rows)
    ]  # fmt: skip


def film(number):
    return f"Film: É{number} (19{60 + number})"


def prepared(folder, directory, *more, preset=None):
    settings = [f"data.path={folder}", *more]
    facts = prepare(load_config(preset=preset, settings=settings).data, directory)
    return facts, Log.load(directory)


def write_10m(folder):
    folder.mkdir()
    lines = [f"{u}::{i}::{r:g}::{t}" for u, i, r, t in ratings()]
    (folder / "ratings.dat").write_text("\n".join(lines) + "\n")
    movies = [
        f"{i}::Film: É{i} (19{60 + i})::{'|'.join(GENRES[: 1 + i % 3])}" for i in range(1, 31)
    ]
    (folder / "movies.dat").write_text("\n".join(movies) + "\n", "utf-8")
    return folder


def write_25m(folder):
    folder.mkdir()
    lines = [f"{u},{i},{r:g},{t}" for u, i, r, t in ratings()]
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + "\n".join(lines))
    movies = [
        f'{i},"Film: É{i} (19{60 + i})",{"|".join(GENRES[: 1 + i % 3])}' for i in range(1, 30)
    ]
    movies.append('30,"Last, the (1990)",(no genres listed)')
    (folder / "movies.csv").write_text("movieId,title,genres\n" + "\n".join(movies), "utf-8")
    return folder


def test_movielens_10m_and_25m_hold_the_same_log(tmp_path):
    old, _ = prepared(write_10m(tmp_path / "ml-10m"), tmp_path / "a")
    new, log = prepared(write_25m(tmp_path / "ml-25m"), tmp_path / "b")
    assert old.splits == new.splits
    assert old.positives == sum(r >= 4 for _, _, r, _ in ratings()) == new.positives
    assert log.titles[0] == "Film: É1 (1961)"
    assert log.users.columns == ["id", "train_rows", "user_id_code"]
    one, other = (pl.read_parquet(tmp_path / name / "items.parquet") for name in "ab")
    assert one.filter(pl.col("id") != "30").equals(other.filter(pl.col("id") != "30"))


def test_a_zip_of_the_csv_layout(tmp_path):
    folder = write_25m(tmp_path / "m")
    with zipfile.ZipFile(tmp_path / "ml-25m.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"ml-25m/{path.name}")
    facts, _ = prepared(tmp_path / "ml-25m.zip", tmp_path / "d")
    assert facts.rows == 600


# Amazon.

TITLES = {1: "War &amp; Peace", 2: "  It ", 3: None, 4: "var aPage = new Date().getTime();",
          5: "Caf\u00e9 &#39;68&#39;"}  # fmt: skip


def asin(number):
    return f"{int(number):010}"


def amazon_rows():
    return [(f"A{int(u):013}", asin(i), int(r + 0.5), t) for u, i, r, t in ratings()]


def write_amazon(folder, release):
    folder.mkdir()
    facts = []
    for number in range(1, 31):
        title = TITLES.get(number, f"Book {number}")
        path = ["Books", "Poetry &amp; Prose" if number % 2 else "History"]
        facts.append(
            {
                2014: {"asin": asin(number), "brand": f"B{number % 3}", "categories": [path]},
                2018: {"asin": asin(number), "brand": f"Visit Amazon's B{number % 3} Page",
                       "category": path},
                2023: {"parent_asin": asin(number), "author": {"name": f"B{number % 3}"},
                       "categories": path, "main_category": "Books"},
            }[release]
            | ({"title": title} if title else {})
        )  # fmt: skip
    meta = {2014: "meta_Books.json.gz", 2018: "meta_Books.json.gz", 2023: "meta_Books.jsonl.gz"}
    lines = [repr(f) if release == 2014 else json.dumps(f) for f in facts]
    if release == 2018:
        lines.append(lines[0])  # it lists some items twice
    (folder / meta[release]).write_bytes(gzip.compress("\n".join(lines).encode()))
    rows = amazon_rows()
    if release == 2023:
        reviews = [
            {"user_id": u, "parent_asin": i, "asin": "x", "rating": float(r), "timestamp": t * 1000}
            for u, i, r, t in rows
        ]
        name = "Books.jsonl.gz"
    else:
        reviews = [
            {
                "reviewerID": u,
                "asin": i,
                "overall": float(r),
                "unixReviewTime": t,
                "reviewText": "x",
            }
            for u, i, r, t in rows
        ]
        name = "reviews_Books.json.gz" if release == 2014 else "Books.json.gz"
    content = "\n".join(json.dumps(review) for review in reviews)
    (folder / name).write_bytes(gzip.compress(content.encode()))
    return folder


@pytest.mark.parametrize("release", [2014, 2018, 2023])
def test_amazon_of_every_release(tmp_path, release):
    folder = write_amazon(tmp_path / "books", release)
    facts, log = prepared(folder, tmp_path / "d", preset="amazon-books")
    assert facts.rows == 600
    assert facts.positives == sum(r >= 5 for _, _, r, _ in amazon_rows())
    assert facts.untitled_items == 2
    by_id = {row["id"]: row for row in log.items.iter_rows(named=True)}
    assert by_id[asin(1)]["title"] == "War & Peace"
    assert by_id[asin(2)]["title"] == "It"
    assert by_id[asin(5)]["title"] == "Café '68'"
    assert by_id[asin(7)]["author"] == "B1"
    assert by_id[asin(7)]["category"] == ["Books", "Poetry & Prose"]
    assert any("2 of 29 items (7%) have no title" in warning for warning in facts.warnings)
    dropped, log = prepared(folder, tmp_path / "e", "data.untitled=drop", preset="amazon-books")
    gone = sum(i in (asin(3), asin(4)) for _, i, _, _ in amazon_rows())
    assert dropped.left_out.rows_of_untitled_items == gone
    assert dropped.rows == 600 - gone
    assert dropped.untitled_items == 0
    assert all(log.titles)


@pytest.mark.parametrize("name", ["ratings_Books.csv", "Books.csv", "Books.csv.gz"])
def test_amazon_ratings_without_reviews_in_every_order(tmp_path, name):
    folder = write_amazon(tmp_path / "books", 2018)
    whole, _ = prepared(folder, tmp_path / "a")
    (folder / "Books.json.gz").unlink()
    rows = [f"{u},{i},{r}.0,{t}" for u, i, r, t in amazon_rows()]
    if name == "Books.csv":  # 2018: the item first
        rows = [f"{i},{u},{r}.0,{t}" for u, i, r, t in amazon_rows()]
    if name == "Books.csv.gz":  # 2023: a header, and milliseconds
        rows = [f"{u},{i},{r}.0,{t}000" for u, i, r, t in amazon_rows()]
        rows.insert(0, "user_id,parent_asin,rating,timestamp")
    content = "\n".join(rows).encode()
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    found, _ = prepared(folder, tmp_path / "b")
    assert found.splits == whole.splits
    assert found.positives == whole.positives


def test_two_categories_are_not_guessed_between(tmp_path):
    folder = write_amazon(tmp_path / "books", 2018)
    for name in ("meta_Books.json.gz", "Books.json.gz"):
        (folder / name.replace("Books", "Toys")).write_bytes((folder / name).read_bytes())
    with pytest.raises(DataError, match=r"several categories \(Books, Toys\)"):
        prepared(folder, tmp_path / "d")


def test_what_is_not_fetched_is_asked_for(tmp_path):
    with pytest.raises(ConfigError, match="download it and give its directory with --set data.pa"):
        prepare(load_config(preset="amazon-books").data, tmp_path / "d")


def test_the_real_logs(tmp_path):
    folder = os.environ.get("CORELLAREC_TEST_DATA")
    if not folder:
        pytest.skip("set CORELLAREC_TEST_DATA to a folder with ml-1m.zip and amazon-books-2023")
    folder = Path(folder)
    facts, _ = prepared(folder / "ml-1m.zip", tmp_path / "a", preset="ml-1m")
    counts = [getattr(facts, name) for name in ("rows", "users", "items", "positives")]
    assert counts == [1_000_209, 6040, 3706, 575_281]
    facts, _ = prepared(folder / "ml-1m.zip", tmp_path / "b", "data.min_history=5", preset="ml-1m")
    assert (facts.rows, facts.history_only_rows) == (970_009, 30_200)
    facts, _ = prepared(folder / "amazon-books-2023", tmp_path / "c", preset="amazon-books")
    assert facts.rows == 160_666
