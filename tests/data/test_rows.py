import gzip
from io import BytesIO

import polars as pl
import pytest

from corellarec.base.errors import DataError
from corellarec.data.row_files import RowFile, delimited_file, frame_file, json_file
from corellarec.data.rows import read_rows

COLUMNS = {"user": "u", "item": "i", "value": "r", "time": "t"}


def csv(text, **more):
    return delimited_file(
        BytesIO(text.encode()), name="log.csv", separator=",", columns=COLUMNS, **more
    )


def listed(rows):
    return rows.named().rows()


def text(rows):
    return "u,i,r,t\n" + "".join(",".join(map(str, row)) + "\n" for row in rows)


def test_good_rows_fast_and_slow_agree():
    files = [csv(text([("a", 1, 4.5, 100), ("b", 2, 3, 200)]))]
    fast = read_rows(files, "s", 0)
    assert listed(fast) == [("a", "1", 4.5, 100_000_000), ("b", "2", 3.0, 200_000_000)]
    broken = RowFile("x", pl.LazyFrame({"nothing": []}), files[0].slow)
    assert listed(read_rows([broken], "s", 0)) == listed(fast)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("b,2,3", "line 3: 3 values where 4 are expected (u,i,r,t)"),
        ("b,2,3,4,5", "line 3: 5 values where 4 are expected (u,i,r,t)"),
        (",2,3,4", "line 3: no user"),
        ('"",2,3,4', "line 3: no user"),
        ("b,,3,4", "line 3: no item"),
        ("b,2,x,4", "line 3: rating 'x' is not a number"),
        ("b,2,nan,4", "line 3: rating 'nan' is not a number"),
        ("b,2,inf,4", "line 3: rating 'inf' is not a number"),
        ("b,2,3,soon", "line 3: time 'soon' is not a time of the years 1 to 9999"),
        (
            "b,2,3,9467085600000",
            "line 3: time '9467085600000' is not a time of the years 1 to 9999",
        ),
        (
            "b,2,3,9223372036854775807",
            "line 3: time '9223372036854775807' is not a time of the years 1 to 9999",
        ),
        ("b,2,3,", "line 3: time '' is not a time of the years 1 to 9999"),
    ],
)
def test_bad_rows_are_named_counted_and_can_be_skipped(line, problem):
    file = csv(f"u,i,r,t\na,1,4,100\n{line}\nc,1,4,100\n{line}\n")
    with pytest.raises(DataError) as failure:
        read_rows([file], "s", 1)
    message = str(failure.value)
    assert message.startswith(f"log.csv, {problem}; 2 such row(s) in all, and data.skip_bad_rows")
    assert message.endswith("--skip-bad-rows 2")
    rows = read_rows([file], "s", 2)
    assert [row[0] for row in listed(rows)] == ["a", "c"]
    assert (rows.skipped, rows.first_skipped) == (2, f"log.csv, {problem}")


def test_lines_are_counted_over_blank_ones_and_quoted_line_breaks():
    file = csv('u,i,r,t\na,1,4,100\n\n"x\ny",1,4,100\nb,1,?,100\n')
    with pytest.raises(DataError, match=r"log\.csv, line 6: rating '\?'"):
        read_rows([file], "s", 0)
    assert [row[0] for row in listed(read_rows([file], "s", 1))] == ["a", "x\ny", "b"][:2]
    assert len(listed(read_rows([csv("u,i,r,t\na,1,4,100\n\nb,1,4,100\n")], "s", 0))) == 2


def test_a_missing_column_and_an_empty_log():
    with pytest.raises(DataError, match=r"log\.csv, line 1: no column 'r'; found: u, i, t"):
        csv("u,i,t\n")
    with pytest.raises(DataError, match="no rows"):
        read_rows([csv("u,i,r,t\n")], "s", 0)
    with pytest.raises(DataError, match=r"t\.parquet: no column 'u'; found: x"):
        frame_file(pl.LazyFrame({"x": [1]}), name="t.parquet", columns=COLUMNS)


def test_text_that_is_not_utf8_is_named():
    file = delimited_file(
        BytesIO(b"u,i,r,t\na,1,4,100\n\xff,1,4,100\n"),
        name="log.csv", separator=",", columns=COLUMNS,
    )  # fmt: skip
    with pytest.raises(DataError, match=r"log\.csv, line 3: not UTF-8 text"):
        read_rows([file], "s", 0)


@pytest.mark.parametrize(
    ("times", "seconds"),
    [
        ((1_500_000_000, 1_500_000_001), 1_500_000_000),
        ((1_500_000_000.0, 1_500_000_001.25), 1_500_000_000),
        ((1_500_000_000_000, 1_500_000_000_001), 1_500_000_000),
        ((1_500_000_000_000_000, 1_500_000_000_000_001), 1_500_000_000),
        ((1_500_000_000_000_000_000, 1_500_000_000_000_001_000), 1_500_000_000),
        (("2017-07-14 02:40:00", "2017-07-14 02:40:01"), 1_500_000_000),
        (("2017-07-14T02:40:00.5Z", "2017-07-14T02:40:01Z"), 1_500_000_000.5),
        (("2017-07-14T04:40:00+0200", "2017-07-14T02:40:01+0000"), 1_500_000_000),
        (("2017-07-14", "2017-07-15"), 1_499_990_400),
    ],
)
def test_times_of_every_kind_become_microseconds(times, seconds):
    rows = read_rows([csv(text([("a", 1, 1, times[0]), ("a", 2, 1, times[1])]))], "auto", 0)
    assert rows.named()["time"][0] == seconds * 1_000_000
    assert rows.named()["time"][1] > rows.named()["time"][0]  # finer than a second where given


def test_a_fraction_after_many_whole_times_is_read():
    rows = [("a", i, 1, 100 + i) for i in range(1500)] + [("a", 1, 1, "100.5")]
    assert read_rows([csv(text(rows))], "s", 0).named()["time"][-1] == 100_500_000


def test_json_in_both_notations_compressed_or_not(tmp_path):
    lines = [
        '{"u": "a", "i": 7, "r": 4.5, "t": 100, "x": [1]}',
        '{"u": "b", "i": 8, "r": 1, "t": 1}',
    ]
    loose = [line.replace('"', "'").replace("[1]", "None") for line in lines]
    expected = [("a", "7", 4.5, 100_000_000), ("b", "8", 1.0, 1_000_000)]
    for number, content in enumerate((lines, loose, [lines[0], loose[1]])):
        path = tmp_path / f"{number}.json.gz"
        path.write_bytes(gzip.compress("\n".join(content).encode()))
        assert listed(read_rows([json_file(path, name="j", columns=COLUMNS)], "s", 0)) == expected
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join([*lines, '{"u": "c"', '{"u": "d", "i": 1, "t": 3}']))
    with pytest.raises(DataError, match=r"j, line 3: not a JSON object; 2 such"):
        read_rows([json_file(path, name="j", columns=COLUMNS)], "s", 0)
    assert listed(read_rows([json_file(path, name="j", columns=COLUMNS)], "s", 2)) == expected


def test_a_damaged_gz_is_an_error(tmp_path):
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(text([("a", i, 4, 100) for i in range(5000)]).encode())[:-200])
    file = delimited_file(path, name="x.csv.gz", separator=",", columns=COLUMNS)
    with pytest.raises(DataError, match=r"x\.csv\.gz cannot be read.*Compressed file ended"):
        read_rows([file], "s", 0)


def test_rows_of_frames_are_counted_as_rows():
    frame = pl.LazyFrame({"u": [1, None, 3], "i": ["x"] * 3, "r": [4.0, 4.0, None], "t": [1, 2, 3]})
    file = frame_file(frame, name="t.parquet", columns=COLUMNS)
    with pytest.raises(DataError, match=r"t\.parquet, row 2: no user; 2 such row\(s\)"):
        read_rows([file], "s", 0)
    assert listed(read_rows([file], "s", 2)) == [("1", "x", 4.0, 1_000_000)]


def test_the_separator_of_two_characters():
    source = BytesIO(b"1::10::5::978300760\n2::11::3.5::978300761\n")
    file = delimited_file(
        source, name="ratings.dat", separator="::",
        columns={"user": 0, "item": 1, "value": 2, "time": 3},
        header=("user", "item", "rating", "timestamp"), quoted=False,
    )  # fmt: skip
    expected = [("1", "10", 5.0, 978300760 * 10**6), ("2", "11", 3.5, 978300761 * 10**6)]
    assert listed(read_rows([file], "s", 0)) == expected
    bad = delimited_file(
        BytesIO(b"1::10::5::9\n2:11::3.5::9\n"), name="ratings.dat", separator="::",
        columns={"user": 0, "item": 1, "value": 2, "time": 3},
        header=("user", "item", "rating", "timestamp"), quoted=False,
    )  # fmt: skip
    with pytest.raises(DataError, match=r"line 2: 3 values where 4 are expected \(user::item"):
        read_rows([bad], "s", 0)
