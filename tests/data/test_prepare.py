import random
import tempfile
import zipfile

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corellarec.base.errors import DataError
from corellarec.config import load_config
from corellarec.data import prepare as prepare_module
from corellarec.data.prepare import prepare
from corellarec.data.splits import SPLITS
from small import write_movielens


def config(path, *more):
    return load_config(settings=[f"data.path={path}", *more]).data


def tables(directory):
    return [pl.read_parquet(directory / f"{name}.parquet") for name in ("rows", "users", "items")]


def test_facts_agree_with_the_files(movielens, tmp_path):
    facts = prepare(config(movielens), tmp_path / "d")
    raw = [line.split("\t") for line in (movielens / "u.data").read_text().splitlines()]
    assert facts.rows + facts.left_out.duplicate_rows == len(raw)
    rows, users, items = tables(tmp_path / "d")
    assert facts.positives == rows["label"].sum()
    # Every prepared row is a raw row, label and all.
    named = rows.select(
        users["id"].gather(rows["user"]).alias("user"),
        items["id"].gather(rows["item"]).alias("item"),
        pl.col("time").dt.epoch("s"),
        "label",
    )
    expected = {(u, i, int(t), int(float(r) >= 4)) for u, i, r, t in raw}
    assert set(named.rows()) <= expected
    assert sum(part.rows for part in facts.splits.values()) == facts.rows


def test_splits_follow_time_and_ties_stay_together(movielens, tmp_path):
    prepare(config(movielens), tmp_path / "d")
    rows = tables(tmp_path / "d")[0]
    assert rows.group_by("time").agg(pl.col("split").n_unique())["split"].max() == 1
    ends = [rows.filter(pl.col("split") == i)["time"] for i in range(len(SPLITS))]
    assert ends[0].max() < ends[1].min() <= ends[1].max() < ends[2].min()
    assert abs(len(ends[0]) / rows.height - 0.8) < 0.01


def test_vocabularies_come_from_training_alone(movielens, tmp_path):
    facts = prepare(config(movielens), tmp_path / "d")
    rows, users, items = tables(tmp_path / "d")
    train = rows.filter(pl.col("split") == 0)
    for table, side in ((users, "user"), (items, "item")):
        seen = set(train[side].to_list())
        codes = table[f"{side}_id_code"].to_list()
        assert {i for i, code in enumerate(codes) if code} == seen
        assert sorted(code for code in codes if code) == list(range(1, len(seen) + 1))
    assert facts.splits["test"].cold_user_rows > 0
    cold = rows.filter(pl.col("split") == 2)["user"].to_list()
    expected = sum(users["user_id_code"][user] == 0 for user in cold)
    assert facts.splits["test"].cold_user_rows == expected


def test_a_shuffled_file_gives_the_same_log(movielens, tmp_path):
    lines = (movielens / "u.data").read_text("latin-1").splitlines()
    random.Random(1).shuffle(lines)
    shuffled = write_movielens(tmp_path / "shuffled")
    (shuffled / "u.data").write_text("\n".join(lines) + "\n", "latin-1")
    prepare(config(movielens), tmp_path / "a")
    prepare(config(shuffled), tmp_path / "b")
    for one, other in zip(tables(tmp_path / "a"), tables(tmp_path / "b"), strict=True):
        assert one.equals(other)


@pytest.mark.parametrize("more", [[], ["data.skip_bad_rows=1"], ["data.implicit=true"]])
def test_rows_on_disk_give_the_same_log(movielens, tmp_path, monkeypatch, more):
    folder, scratch, seen = write_movielens(tmp_path / "log"), tmp_path / "scratch", []
    if "data.skip_bad_rows=1" in more:
        with (folder / "u.data").open("a") as file:
            file.write("1\t1\tmany\t1\n")
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    ordered = prepare_module.in_order

    def watched(*arguments):
        seen.append(len(list(scratch.rglob("*.parquet"))))
        return ordered(*arguments)

    monkeypatch.setattr(prepare_module, "in_order", watched)
    prepare(config(folder, *more), tmp_path / "a")
    prepare(config(folder, "data.memory_limit_mb=8000", *more), tmp_path / "b")
    assert seen == [0, 1]
    assert not list(scratch.iterdir())
    for name in ("rows", "users", "items"):
        one, other = (tmp_path / d / f"{name}.parquet" for d in ("a", "b"))
        assert one.read_bytes() == other.read_bytes()


def test_a_log_that_needs_more_memory_is_refused(movielens, tmp_path):
    with pytest.raises(DataError, match=r"1,600 rows of 40 users .* data.memory_limit_mb is 50"):
        prepare(config(movielens, "data.memory_limit_mb=50"), tmp_path / "d")


def test_zip_and_directory_agree_and_atomic_files_too(movielens, tmp_path):
    archive = tmp_path / "ml-100k.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in movielens.iterdir():
            file.write(path, f"ml-100k/{path.name}")
    atomic = write_atomic(movielens, tmp_path / "atomic")
    prepare(config(movielens), tmp_path / "a")
    prepare(config(archive), tmp_path / "b")
    prepare(config(atomic), tmp_path / "c")
    for one, zipped, other in zip(*(tables(tmp_path / name) for name in "abc"), strict=True):
        assert one.equals(zipped)
        assert one.equals(other.select(one.columns))


def write_atomic(movielens, folder):
    folder.mkdir()
    rows = (movielens / "u.data").read_text().strip()
    (folder / "x.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + rows + "\n"
    )
    from corellarec.data.sources.movielens import GENRES_100K

    items = ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"]
    for line in (movielens / "u.item").read_text("latin-1").splitlines():
        number, title, *_, flags = line.split("|", 5)
        genres = [g for g, f in zip(GENRES_100K, flags.split("|"), strict=True) if f == "1"]
        items.append(f"{number}\t{title[:-7]}\t{title[-5:-1]}\t{' '.join(genres)}")
    (folder / "x.item").write_text("\n".join(items) + "\n")
    users = ["user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token"]
    users += (movielens / "u.user").read_text().replace("|", "\t").splitlines()
    (folder / "x.user").write_text("\n".join(users) + "\n")
    return folder


def test_a_second_preparation_does_nothing(movielens, tmp_path):
    prepare(config(movielens), tmp_path / "d")
    before = (tmp_path / "d" / "rows.parquet").stat().st_mtime_ns
    prepare(config(movielens), tmp_path / "d")
    assert (tmp_path / "d" / "rows.parquet").stat().st_mtime_ns == before
    prepare(config(movielens, "data.positive_rating=5"), tmp_path / "d")
    assert (tmp_path / "d" / "rows.parquet").stat().st_mtime_ns != before


@settings(max_examples=15, deadline=None)
@given(threshold=st.integers(2, 5), share=st.floats(0.5, 0.9))
def test_label_and_split_rules(tmp_path_factory, threshold, share):
    folder = write_movielens(tmp_path_factory.mktemp("m"))
    rest = (1 - share) / 2
    chosen = config(
        folder, f"data.positive_rating={threshold}", f"data.split=[{share}, {rest}, {rest}]"
    )
    directory = tmp_path_factory.mktemp("d") / "d"
    facts = prepare(chosen, directory)
    assert abs(facts.splits["train"].rows / facts.rows - share) < 0.02
    ratings = [line.split("\t") for line in (folder / "u.data").read_text().splitlines()]
    best: dict[tuple[str, str, str], int] = {}  # of one interaction the higher rating counts
    for user, item, rating, time in ratings:
        best[user, item, time] = max(int(rating), best.get((user, item, time), 0))
    assert facts.positives == sum(rating >= threshold for rating in best.values())


def broken(tmp_path, file, change):
    folder = write_movielens(tmp_path / "m")
    path = folder / file
    path.write_text(change(path.read_text("latin-1")), "latin-1")
    return folder


def line(number, change):
    def apply(text):
        lines = text.split("\n")
        lines[number - 1] = change(lines[number - 1])
        return "\n".join(lines)

    return apply


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("u.data", line(7, lambda s: s + "\tx"), r"u\.data, line 7: 5 values where 4"),
        ("u.data", line(9, lambda s: "\t" + s.partition("\t")[2]), r"u\.data, line 9: no user"),
        ("u.data", line(5, lambda s: "1\t1\tfour\t9"), r"u\.data, line 5: rating 'four' is not"),
        ("u.data", line(5, lambda s: "1\t1\t4\tnan"), r"u\.data, line 5: time 'nan' is not"),
        ("u.data", lambda s: "", "the log has no rows"),
        ("u.item", line(3, lambda s: s.rpartition("|")[0]), r"u\.item, line 3: 23 values"),
        ("u.user", line(2, lambda s: "1" + s[1:]), "user '1' is listed twice"),
    ],
)
def test_bad_lines_are_named_and_nothing_is_written(tmp_path, file, change, message):
    folder = broken(tmp_path, file, change)
    with pytest.raises(DataError, match=message):
        prepare(config(folder), tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_unusable_splits(movielens, tmp_path):
    with pytest.raises(DataError, match="every label in the train split is 1"):
        prepare(config(movielens, "data.positive_rating=0"), tmp_path / "d")
    folder = broken(tmp_path, "u.data", lambda s: "1\t1\t4\t5\n1\t2\t3\t5\n")
    with pytest.raises(DataError, match="the train split is empty"):
        prepare(config(folder), tmp_path / "d")


def test_missing_and_damaged_sources(movielens, tmp_path):
    with pytest.raises(DataError, match="is not there"):
        prepare(config(tmp_path / "none.zip"), tmp_path / "d")
    (tmp_path / "cut.zip").write_bytes(b"PK\x03\x04 not whole")
    with pytest.raises(DataError, match="not a whole zip"):
        prepare(config(tmp_path / "cut.zip"), tmp_path / "d")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no log in a known layout.*corellarec init-data"):
        prepare(config(tmp_path / "empty"), tmp_path / "d")
    atomic = write_atomic(movielens, tmp_path / "atomic")
    text = (atomic / "x.inter").read_text()
    (atomic / "x.inter").write_text(text.replace("rating:float", "stars:float"))
    message = r"line 1: no column rating or label; found: .*stars.*--set data\.implicit=true"
    with pytest.raises(DataError, match=message):
        prepare(config(atomic), tmp_path / "d")


def test_recboles_interactions_without_ratings(movielens, tmp_path):
    """They are positives, as a log of one's own with the label ``implicit``."""
    atomic = write_atomic(movielens, tmp_path / "atomic")
    lines = (atomic / "x.inter").read_text().splitlines()
    kept = [
        "\t".join(value for i, value in enumerate(line.split("\t")) if i != 2) for line in lines
    ]
    (atomic / "x.inter").write_text("\n".join(kept) + "\n")
    facts = prepare(config(atomic, "data.implicit=true"), tmp_path / "a")
    every = prepare(config(movielens, "data.implicit=true", "data.positive_rating=1"),
                    tmp_path / "b")  # fmt: skip
    assert facts.positives == every.positives == len(lines) - 1
    assert facts.negatives is not None
    for one, other in zip(tables(tmp_path / "a"), tables(tmp_path / "b"), strict=True):
        assert one.select(other.columns).equals(other)
    (atomic / "x.inter").write_text("\n".join([*kept, "1\t2\tnever"]) + "\n")
    with pytest.raises(DataError, match=rf"x\.inter, line {len(lines) + 1}: time 'never'"):
        prepare(config(atomic, "data.implicit=true"), tmp_path / "c")


def test_a_damaged_member_of_a_zip_is_an_error(movielens, tmp_path):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(movielens.iterdir()):
            file.write(path, path.name)
    content = bytearray(archive.read_bytes())
    content[300] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.zip: u\.data"):
        prepare(config(archive), tmp_path / "d")
