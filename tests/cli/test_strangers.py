"""Exports as shops, players and spreadsheets write them, from init-data to report.html."""

import csv
import json
import random
from datetime import datetime, timedelta

import polars as pl
import pytest

from command_line import call, options
from corellarec.config import load_config
from corellarec.data.prepare import build

ROWS = 900


def shop(folder, chance):
    """One line for each article of an order; what is of the order is on its first line alone."""
    articles = [(f"SKU-{n:03}", f"Linen Shirt &amp; Belt #{n}", 5 + n) for n in range(30)]
    with (folder / "orders_export.csv").open("w", newline="", encoding="utf-8-sig") as file:
        lines = csv.writer(file)
        lines.writerow(["Name", "Email", "Paid at", "Currency", "Subtotal", "Created at",
                        "Lineitem quantity", "Lineitem name", "Lineitem price", "Lineitem sku",
                        "Vendor", "Notes"])  # fmt: skip
        for number in range(ROWS):
            sku, name, price = chance.choice(articles)
            at = datetime(2023, 3, 1) + timedelta(hours=3 * number)
            created, first = f"{at} {'+0100' if at.month < 4 else '+0200'}", number % 3 == 0
            lines.writerow([f"#{1000 + number // 3}", f"k{number // 3 % 37}@example.com",
                            created if first else "", "EUR" if first else "",
                            chance.randint(9, 400) if first else "", created,
                            chance.randint(1, 3), name, price, sku, f"Maker {price % 4}",
                            'a "gift",\nplease' if number % 50 == 0 else ""])  # fmt: skip


def player(folder, chance):
    """A line of JSON for each play, as a player's export of one's data has it."""
    with (folder / "endsong_0.jsonl").open("w") as file:
        for number in range(ROWS):
            track = chance.randrange(40)
            play = {
                "ts": f"{datetime(2022, 1, 1) + timedelta(minutes=47 * number):%Y-%m-%dT%H:%M:%SZ}",
                "username": f"user{chance.randrange(30)}",
                "platform": "iOS 15",
                "ms_played": chance.randrange(240_000),
                "master_metadata_track_name": None if number % 90 == 0 else f"Song <b>{track}</b>",
                "master_metadata_album_artist_name": f"Artist {track % 7}",
                "spotify_track_uri": f"spotify:track:{track:022}",
                "episode_name": None,
                "skipped": chance.random() < 0.4,
                "offline": False,
            }
            file.write(json.dumps(play) + "\n")


def spreadsheet(folder, chance):
    """Semicolons, decimal commas, the day first, the euro sign of cp1252."""
    with (folder / "Bewertungen 2024.csv").open("w", newline="", encoding="cp1252") as file:
        lines = csv.writer(file, delimiter=";")
        lines.writerow(["Kundennr.", "Artikelnr.", "Bewertung", "Datum"])
        for number in range(ROWS):
            rating = f"{chance.randint(2, 10) / 2:g}".replace(".", ",")
            at = datetime(2024, 1, 1, 8) + timedelta(hours=5 * number)
            lines.writerow([f"K{chance.randrange(30):04}", f"{chance.randrange(40):05}", rating,
                            f"{at:%d.%m.%Y %H:%M}"])  # fmt: skip
    with (folder / "Artikel.csv").open("w", newline="", encoding="cp1252") as file:
        lines = csv.writer(file, delimiter=";")
        lines.writerow(["Artikelnr.", "Bezeichnung", "Preis", "Warengruppe"])
        for number in range(40):
            price, group = f"{number // 20}.{100 + number},50 €", "Möbel" if number % 2 else "Spaß"
            lines.writerow([f"{number:05}", f"Bücher für Ärzte {number}", price, group])


@pytest.fixture
def described(monkeypatch, capsys, tmp_path):
    """Makes a log's folder and lets init-data describe it."""

    def make(write, *given):
        folder, toml = tmp_path / "log", tmp_path / "mine.toml"
        folder.mkdir()
        write(folder, random.Random(0))
        code, _, err = call(monkeypatch, capsys, "init-data", folder, "-o", toml, *given)
        assert code == 0, err
        return toml, load_config(files=[toml]).data

    return make


def test_an_export_of_orders(described):
    _, data = described(shop, "--rating", "Lineitem quantity")
    log, items = data.interactions, data.items
    assert (log.user, log.item, log.time) == ("Email", "Lineitem sku", "Created at")
    assert items.title == "Lineitem name"  # Name is the order's number
    # What differs from order to order, or never, is none of the article's features.
    assert set(items.categorical) | set(items.numeric) == {"Lineitem price", "Vendor"}
    assert not items.multi  # the semicolon of &amp; separates nothing
    prepared = build(data)
    assert "Linen Shirt & Belt #3" in prepared.items["title"]
    assert prepared.facts.splits["train"].first.isoformat() == "2023-02-28T23:00:00+00:00"
    assert prepared.facts.splits["test"].last.isoformat() == "2023-06-21T07:00:00+00:00"


def test_an_export_of_plays(described):
    _, data = described(player, "--label", "skipped")
    log, items = data.interactions, data.items
    assert (log.user, log.item, log.time) == ("username", "spotify_track_uri", "ts")
    assert items.title == "master_metadata_track_name"
    assert items.categorical == ("master_metadata_album_artist_name",)
    assert not items.numeric  # the time played is not the track's
    assert "Song  3" in build(data).items["title"]


def test_an_export_of_a_spreadsheet(described):
    _, data = described(spreadsheet)
    assert (data.items.encoding, data.items.decimal) == ("cp1252", ",")
    assert data.interactions.decimal == ","  # 3 and 3,5
    prepared = build(data)
    row = prepared.items.row(by_predicate=pl.col("id") == "00021", named=True)
    assert (row["title"], row["Preis"]) == ("Bücher für Ärzte 21", 1121.5)
    assert not prepared.facts.warnings


@pytest.mark.hard
@pytest.mark.parametrize(
    ("write", "given"),
    [
        (shop, ("--rating", "Lineitem quantity")),
        (player, ("--label", "skipped")),
        (spreadsheet, ()),
    ],
)
def test_their_reports(described, tiny_settings, monkeypatch, capsys, tmp_path, write, given):
    toml, _ = described(write, *given)
    own = [setting for setting in tiny_settings if not setting.startswith("data.")]
    code, _, err = call(monkeypatch, capsys, "run", "--config", toml, "--out", tmp_path / "run",
                        *options(own))  # fmt: skip
    assert code == 0, err
    assert (tmp_path / "run" / "report.html").is_file()
