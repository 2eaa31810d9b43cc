"""What people's tables hold beside what was meant: it is read, or said in one line."""

import codecs
from datetime import timedelta

import polars as pl
import pytest

from corellarec.base.errors import ConfigError, DataError
from corellarec.data.prepare import build, prepare
from data.test_tables import ITEMS, describe, write_log


def test_decimal_commas_and_currency_signs(tmp_path):
    write_log(tmp_path)
    text = (pl.col("price") + 1000.5).cast(pl.String).str.replace(".", ",", literal=True)
    named = ITEMS.with_columns(price=pl.format("€ {}", text).str.replace("€ 1", "€ 1."))
    named.write_csv(tmp_path / "items.csv")
    (warning,) = build(describe(tmp_path)).facts.warnings[:1]
    assert "24 of 25 values of data.items's numeric column 'price' are no numbers" in warning
    assert "such as '€ 1.000,5'" in warning
    assert 'data.items.decimal = ","' in warning
    config = describe(tmp_path)
    items = config.items.model_copy(update={"decimal": ","})
    prepared = build(config.model_copy(update={"items": items}))
    expected = ITEMS.sort("sku")
    assert prepared.items.sort("id")["price"].to_list() == [
        price if price is None else price + 1000.5 for price in expected["price"]
    ]
    assert not prepared.facts.warnings


def test_points_between_other_digits_than_thousands_are_decimal_points(tmp_path):
    """One setting reads all columns of a file, also one that a program wrote."""
    log = write_log(tmp_path)
    mixed = pl.when(pl.int_range(pl.len()) % 2 == 0).then(pl.format("{}.5", "stars"))
    texts = mixed.otherwise(pl.format('"{},5"', "stars"))
    log.with_columns(stars=texts).write_csv(tmp_path / "log.csv", quote_style="never")
    told = 'rating = "stars"\ndecimal = ","'
    facts = build(describe(tmp_path, told, more="positive_rating = 3.5")).facts
    assert facts.positives == (log["stars"] >= 3).sum()
    shown = {"s0": "1.234,5", "s1": "1.234", "s2": "5.50", "s4": "0.125", "s5": "-7.000"}
    price = pl.col("sku").replace_strict(shown, default="1")
    ITEMS.with_columns(price=price).write_csv(tmp_path / "items.csv")
    config = describe(tmp_path, told)
    items = config.items.model_copy(update={"decimal": ","})
    found = dict(
        build(config.model_copy(update={"items": items})).items.select("id", "price").rows()
    )
    assert [found[sku] for sku in shown] == [1234.5, 1234, 5.5, 0.125, -7000]


def test_commas_between_thousands_are_no_decimal_commas(tmp_path):
    write_log(tmp_path)
    shown = {"s0": "$1,299.00", "s1": "12,345,678", "s2": "-1,000", "s4": "999.5"}
    price = pl.col("sku").replace_strict(shown, default="1,001")
    ITEMS.with_columns(price=price).write_csv(tmp_path / "items.csv")
    prepared = build(describe(tmp_path))
    found = dict(prepared.items.select("id", "price").rows())
    assert [found[sku] for sku in shown] == [1299, 12_345_678, -1000, 999.5]
    assert not prepared.facts.warnings
    for text in ("12,50", "0,125", "1,2345"):  # of which none has three digits behind thousands
        ITEMS.with_columns(price=pl.lit(text)).write_csv(tmp_path / "items.csv")
        (warning, *_) = build(describe(tmp_path)).facts.warnings
        assert f"such as '{text}': data.items.decimal = \",\" reads" in warning


def test_features_that_say_little_are_warned_of(tmp_path):
    log = write_log(tmp_path)
    ITEMS.with_columns(
        maker=pl.lit("one"), price=pl.when(pl.col("price") < 9).then(pl.col("price"))
    ).write_csv(tmp_path / "items.csv")
    found = " ".join(build(describe(tmp_path)).facts.warnings)
    assert "the items' feature 'maker' has one value, 'one'" in found
    assert "the items' feature 'price' is missing for 68% of the items" in found
    many = pl.DataFrame({"sku": [f"s{i}" for i in range(200)]}).with_columns(
        name=pl.lit("Thing ") + pl.col("sku"), maker=pl.col("sku"), tags=pl.lit(""), price=1.5
    )
    many.write_csv(tmp_path / "items.csv")
    assert log.height == 500
    found = " ".join(build(describe(tmp_path)).facts.warnings)
    assert "the items' feature 'maker' has 200 values for 200 items" in found


def test_bad_rows_name_the_setting_that_reads_them(tmp_path):
    log = write_log(tmp_path)
    for column, texts, message in (
        ("stars", pl.format('"{},5"', "stars"), r'data\.interactions\.decimal = ","'),
        (
            "when",
            pl.from_epoch("when").dt.strftime("%d/%m/%Y %H:%M"),
            r'time_format = "%d/%m/%Y %H:%M"$',
        ),
        ("stars", pl.lit("good"), "rating 'good' is not a number; 500 .*: of 500 rows: correct"),
    ):
        changed = log.with_columns(texts.alias(column))
        changed.write_csv(tmp_path / "log.csv", quote_style="never")
        with pytest.raises(DataError, match=message) as found:
            prepare(describe(tmp_path), tmp_path / "d")
        assert "--skip-bad-rows" not in str(found.value)
    log.with_columns(pl.from_epoch("when").dt.strftime("%d/%m/%Y %H:%M")).write_csv(
        tmp_path / "log.csv"
    )
    told = 'rating = "stars"\ntime_format = "%d/%m/%Y %H:%M"'
    first = build(describe(tmp_path, told)).facts.splits["train"].first
    assert (first.year, first.month, first.day) == (2023, 11, 14)


def test_event_names_lead_to_positive_values(tmp_path):
    write_log(tmp_path)
    with pytest.raises(DataError, match=r"label '\w+' is not 0 or 1; .*positive_values lists"):
        prepare(describe(tmp_path, 'label = "event"'), tmp_path / "d")
    told = 'label = "event"\npositive_values = ["purchse"]'
    with pytest.raises(DataError, match="no row has 'purchse' in the column 'event'; found: ") as e:
        prepare(describe(tmp_path, told), tmp_path / "d")
    assert all(name in str(e.value) for name in ("view", "cart", "buy"))


def test_titles_of_html(tmp_path):
    write_log(tmp_path)
    title = pl.lit("<b>Salt &amp; Pepper</b> &#8211; ") + pl.col("sku") + pl.lit(" &lt;3")
    ITEMS.with_columns(name=title).write_csv(tmp_path / "items.csv")
    titles = build(describe(tmp_path)).items["title"]
    assert "Salt & Pepper  – s5 <3" in titles


@pytest.mark.parametrize("quoted", [False, True])
def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path, quoted):
    write_log(tmp_path)
    text = (tmp_path / "log.csv").read_text()
    text = text.replace("who", '"who"', 1) if quoted else text
    (tmp_path / "log.csv").write_bytes(codecs.BOM_UTF8 + text.encode())
    assert build(describe(tmp_path)).facts.rows == 500


def test_a_byte_order_mark_without_a_header(tmp_path):
    log = write_log(tmp_path)
    lines = "\n".join("::".join(map(str, row)) for row in log.drop("event").rows())
    (tmp_path / "log.dat").write_bytes(codecs.BOM_UTF8 + lines.encode())
    told = 'rating = "stars"\nheader = ["who", "sku", "stars", "when"]'
    prepared = build(describe(tmp_path, told, log="log.dat"))
    assert sorted(prepared.users["id"]) == sorted(log["who"].unique())


def test_latin_1_is_named(tmp_path):
    write_log(tmp_path)
    named = ITEMS.with_columns(name=pl.lit("Café ") + pl.col("sku"))
    (tmp_path / "items.csv").write_bytes(named.write_csv().encode("latin-1"))
    with pytest.raises(DataError, match=r"items\.csv, line 2: not UTF-8.*encoding.*latin-1"):
        prepare(describe(tmp_path), tmp_path / "d")
    config = describe(tmp_path)
    items = config.items.model_copy(update={"encoding": "latin-1"})
    titles = build(config.model_copy(update={"items": items})).items["title"]
    assert "Café s1" in titles


def test_ids_with_and_without_zeros_in_front(tmp_path):
    log = write_log(tmp_path)
    log.with_columns(pl.col("sku").str.slice(1).str.zfill(3)).write_csv(tmp_path / "log.csv")
    ITEMS.with_columns(pl.col("sku").str.slice(1)).write_csv(tmp_path / "items.csv")
    found = " ".join(build(describe(tmp_path)).facts.warnings)
    assert "item ids differ from another one in leading zeros alone ('0', '000')" in found
    assert "none of the log's items is in the table of items" in found


def test_items_without_rows_and_missing_values(tmp_path):
    log = write_log(tmp_path)
    empty = pl.DataFrame({name: [None] for name in ITEMS.columns}, schema=ITEMS.schema)
    pl.concat([ITEMS, empty.with_columns(sku=pl.lit("s90"))]).write_csv(tmp_path / "items.csv")
    prepared = build(describe(tmp_path))
    rated = prepared.facts.items
    assert set(prepared.items["id"][:rated]) == set(log["sku"])
    assert prepared.items["id"][rated:].to_list() == ["s24", "s90"]  # listed, and nobody took them
    assert prepared.items["train_rows"][rated:].to_list() == [0, 0]
    assert prepared.items["maker_code"][-2] > 0
    assert not prepared.facts.warnings
    gone = pl.when(pl.int_range(pl.len()) % 5 > 0)
    ITEMS.with_columns(
        gone.then(pl.col(name)).alias(name) for name in ("name", "maker", "tags", "price")
    ).write_csv(tmp_path / "items.csv")
    prepared = build(describe(tmp_path))
    row = prepared.items.row(by_predicate=pl.col("id") == "s10", named=True)
    assert (row["title"], row["maker_code"], row["price_code"]) == (None, 0, 0)
    assert any("have no title" in warning for warning in prepared.facts.warnings)
    log.with_columns(who=pl.when(pl.int_range(pl.len()) != 7).then(pl.col("who"))).write_csv(
        tmp_path / "log.csv"
    )
    with pytest.raises(DataError, match=r"log\.csv, line 9: no user; 1 such row\(s\) in all"):
        prepare(describe(tmp_path), tmp_path / "d")


def test_titles_with_colons_between_double_colons(tmp_path):
    write_log(tmp_path)
    rows = ITEMS.fill_null(0.0).with_columns(name=pl.lit('The "A": Part: ') + pl.col("sku"))
    lines = "\n".join("::".join(map(str, row)) for row in rows.rows())
    (tmp_path / "items.dat").write_bytes(codecs.BOM_UTF8 + lines.encode())
    items = f'files = "{tmp_path}/items.dat"\nheader = {rows.columns}'
    titles = build(describe(tmp_path, items=items)).items["title"]
    assert {'The "A": Part: s0', 'The "A": Part: s5'} <= set(titles)


def test_times_of_a_zone_and_bad_zones(tmp_path):
    log = write_log(tmp_path)
    local = pl.from_epoch("when").dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Kolkata")
    text = local.dt.strftime("%Y-%m-%d %H:%M:%S")
    log.with_columns(when=text).write_csv(tmp_path / "local.csv")
    told = 'rating = "stars"\ntime_zone = "Asia/Kolkata"'
    expected = build(describe(tmp_path))
    found = build(describe(tmp_path, told, log="local.csv"))
    assert found.rows.equals(expected.rows)
    earlier = build(describe(tmp_path, log="local.csv")).rows["time"] - expected.rows["time"]
    assert earlier.unique().to_list() == [timedelta(hours=5, minutes=30)]
    offset = local.dt.strftime("%Y-%m-%dT%H:%M:%S%:z")  # here and there another offset
    log.with_columns(
        when=pl.when(pl.col("stars") > 3)
        .then(offset)
        .otherwise(pl.from_epoch("when").dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
    ).write_csv(tmp_path / "mixed.csv")
    assert build(describe(tmp_path, log="mixed.csv")).rows.equals(expected.rows)
    wrong = 'rating = "stars"\ntime_zone = "Berlin"'
    with pytest.raises(ConfigError, match="no time zone is called 'Berlin'; give one such as"):
        build(describe(tmp_path, wrong))
    with pytest.raises(DataError, match=r"times are numbers .*leave out data\.inter"):
        build(describe(tmp_path, told))


def test_prices_in_several_currencies(tmp_path):
    write_log(tmp_path)
    shown = ["$ {}", "{} EUR", "USD{}", "{}"]
    price = pl.coalesce(
        pl.when(pl.int_range(pl.len()) % 4 == i).then(pl.format(form, "price"))
        for i, form in enumerate(shown)
    )
    ITEMS.with_columns(price=price).write_csv(tmp_path / "items.csv")
    prepared = build(describe(tmp_path))
    (warning,) = prepared.facts.warnings
    assert "'price' has prices in 3 currencies ($ 7, EUR 6, USD 6)" in warning
    assert prepared.items.sort("id")["price"].to_list() == ITEMS.sort("sku")["price"].to_list()
    ITEMS.with_columns(price=pl.format("{} EUR", "price")).write_csv(tmp_path / "items.csv")
    assert not build(describe(tmp_path)).facts.warnings


def test_items_twice_under_two_ids(tmp_path):
    write_log(tmp_path)
    same = pl.when(pl.col("sku").is_in(["s5", "s9"]))
    twins = ITEMS.with_columns(
        same.then(pl.lit(value)).otherwise(pl.col(name)).alias(name)
        for name, value in {"name": "Lamp", "maker": "m1", "tags": "red|big", "price": 7.0}.items()
    )
    twins.with_columns(
        name=pl.when(pl.col("sku") == "s9").then(pl.lit(" LAMP")).otherwise(pl.col("name"))
    ).write_csv(tmp_path / "items.csv")
    prepared = build(describe(tmp_path))
    (warning,) = prepared.facts.warnings
    assert (
        "2 items have the title and the features of another one, such as 's5' and 's9'" in warning
    )
    assert {"s5", "s9"} <= set(prepared.items["id"])  # nothing is merged
    twins.with_columns(
        price=pl.when(pl.col("sku") == "s9").then(8.0).otherwise(pl.col("price"))
    ).write_csv(tmp_path / "items.csv")
    assert not build(describe(tmp_path)).facts.warnings
