"""Malformed inputs through the command line: one line, soon, and in little memory."""

import gzip
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tomli_w
from calls import Outcome, call, settings
from targets import ROWS, SECTIONS, zip_bytes

SECONDS = 20
Content = str | bytes | Callable[[], str | bytes]  # the last where it is large
LINES = ["user,item,rating,time", *(",".join(map(str, row)) for row in ROWS)]
LOG = "\n".join(LINES) + "\n"
ITEMS = "item,title,tags,price,brand\n" + "".join(f"i{n},Title {n},a|b,1,x\n" for n in range(15))


def more(row: str) -> str:
    """The log with one row more."""
    return LOG + row + "\n"


def spaces(mib: int) -> bytes:
    """A gzip file of one line, in members of 64 MiB."""
    return gzip.compress(b" " * (64 << 20), 1) * (mib // 64)


def logs() -> Iterator[tuple[str, str, Content]]:
    """Logs in tables of one's own: what is wrong, the file's ending, its content."""
    yield "nothing", "csv", LOG
    yield "byte order mark", "csv", "\ufeff" + LOG
    yield "CRLF", "csv", LOG.replace("\n", "\r\n")
    yield "CR alone", "csv", LOG.replace("\n", "\r")
    yield (
        "mixed ends",
        "csv",
        "".join(line + ("\r\n" if number % 2 else "\n") for number, line in enumerate(LINES)),
    )
    yield "UTF-16", "csv", LOG.encode("utf-16")
    yield "Latin-1 id", "csv", LOG.replace("u1,", "ü1,").encode("latin-1")
    yield "NULs", "csv", LOG.replace("u1,", "u\0,")
    yield "NULs at the end", "csv", LOG.encode() + bytes(4096)
    yield "quote never closed", "csv", LOG.replace("u5,", '"u5,', 1)
    yield "two header names alike", "csv", LOG.replace("user,item", "user,user", 1)
    yield "empty", "csv", ""
    yield "header alone", "csv", LINES[0] + "\n"
    yield "ragged", "csv", LOG.replace("u5,", "u5,9,", 1)
    yield "time in the year 300000", "csv", more("u1,i1,5,9467085600000")
    yield "time nan", "csv", more("u1,i1,5,nan")
    yield "time 1e18", "csv", more("u1,i1,5,1000000000000000000")
    yield "time -1e13", "csv", more("u1,i1,5,-10000000000000")
    huge = (",".join([*line.split(",")[:3], str(9 * 10**18 + n)]) for n, line in enumerate(LINES))
    yield "all times huge", "csv", "\n".join([LINES[0], *list(huge)[1:]]) + "\n"
    yield "rating inf", "csv", more("u1,i1,inf,1600000000")
    yield "line of 200 KB", "csv", more("u" * 200_000 + ",i1,5,1600000000")
    yield "line of 200 KB and a bad row", "csv", more("u" * 200_000 + ",i1,5,1600000000\nx,y")
    yield "line of 100 MB", "csv", lambda: more("u" * (100 << 20) + ",i1,5,1600000000")
    yield "header of 100 MB", "csv", lambda: "u" * (100 << 20)
    columns = ",".join(f"c{n}" for n in range(200_000))
    yield "200,000 columns", "csv", f"user,item,rating,time,{columns}\n"
    content = gzip.compress(LOG.encode())
    yield "gzip cut", "csv.gz", content[:-9]
    yield "gzip with a wrong checksum", "csv.gz", content[:-3] + b"abc"
    yield "gzip that is plain", "csv.gz", LOG
    yield "gzip, 2 GB of one line", "csv.gz", lambda: spaces(2048)
    yield "gzip, 2 GB behind a log", "csv.gz", lambda: gzip.compress(LOG.encode()) + spaces(2048)
    yield "JSON, gzip, 1 GB of one line", "jsonl.gz", lambda: spaces(1024)
    yield "JSON, deep", "jsonl", "[" * 100_000
    yield "JSON, deep brackets", "jsonl", "{'user':" + "(" * 5000 + ")" * 5000 + "}"
    number = '{"user":"a","item":"i1","rating":' + "9" * 10_000 + ',"time":1}'
    yield "JSON, a number of 10,000 digits", "jsonl", number
    number = "{'user': 0x" + "9" * 10_000 + ", 'item': 'i1', 'rating': 5, 'time': 1}"
    yield "Python's notation, a number of 10,000 digits", "jsonl", number
    yield "Python's notation, 9**9**9", "jsonl", "{'user': 9**9**9}"
    half = '{"user":"\\ud800","item":"i1","rating":5,"time":1}'
    yield "JSON, half a character", "jsonl", half
    yield "Parquet that is CSV", "parquet", LOG


def bombs(movielens: Path) -> Iterator[tuple[str, Content]]:
    """Zips of MovieLens: what is wrong, and the content."""
    files = {name: (movielens / name).read_bytes() for name in ("u.data", "u.item", "u.user")}
    whole = zip_bytes(files)
    yield "zip with ../ in its names", zip_bytes({f"../../{name}": x for name, x in files.items()})
    yield "zip that unpacks to 1.5 GB", lambda: zip_bytes({**files, "u.data": bytes(1500 << 20)})
    yield "zip, encrypted", changed(whole, b"PK\x01\x02", 8, b"\x01")
    yield "zip, unknown compression", changed(whole, b"PK\x01\x02", 10, b"\x61")
    yield "zip, cut", whole[: len(whole) // 2]
    yield "zip of nothing", zip_bytes({})
    yield "zip that is none", b"PK\x03\x04" + bytes(100)


def changed(content: bytes, mark: bytes, place: int, value: bytes) -> bytes:
    """Bytes with ``value`` at ``place`` behind each ``mark``."""
    parts = content.split(mark)
    place -= len(mark)
    behind = [part[:place] + value + part[place + len(value) :] for part in parts[1:]]
    return mark.join([parts[0], *behind])


PAIRS = {
    "empty": "",
    "header alone": "user,item\n",
    "NUL": "user,item\n1\0,1\n",
    "byte order mark": "\ufeffuser,item\n1,1\n",
    "CR alone": "user,item\r1,1\r",
    "UTF-16": "user,item\n1,1\n".encode("utf-16"),
    "ragged": "user,item\n1,1,1\n",
    "quote never closed": 'user,item\n"1,1\n2,2\n',
    "spaces": "user,item\n1, 1\n",
    "float ids": "user,item\n1.0,1.0\n",
    "a column p": "user,item,p\n1,1,1\n",
    "unknown item with markup": "user,item\n1,[red]x[/]\n",
    "unknown item with a line break": 'user,item\n1,"a\nb"\n',
    "escape code in an item": "user,item\n1,\x1b[31m\n",
    "two columns alike": "user,item,item\n1,1,1\n",
    "a formula in a kept column": "user,item,n\n1,1,=cmd()\n",
    "time out of range": "user,item,time\n1,1,9467085600000\n",
}
NUMBERS = [
    "seed=99999999999999999999", "seed=9223372036854775808", "seed=-1", "seed=true",
    "stage1.learning_rate=1e308", "stage1.learning_rate=inf", "stage1.learning_rate=nan",
    "stage1.weight_decay=nan", "stage1.batch_size=1000000000000", "stage2.align_weight=inf",
    "crm.embedding_dim=1000000000", "crm.dropout=1.0", "crm.deep_layers=[]",
    "crm.history_length=10000000000", "llm.history_length=1000000000000",
    "llm.lora.rank=100000000", "llm.lora.target_modules=[]", "align.exponent=1e300",
    "stage2.validation_rows=1", "evaluate.groups=100000", "evaluate.bootstrap=1",
    "data.positive_rating=nan", "data.split=[nan, 0.5, 0.5]",
]  # fmt: skip
OF_THE_DATA = [
    "cascade.validation_rows=1", "evaluate.test_rows=1", "evaluate.test_rows=2",
    "evaluate.groups=100", "align.pairs=[]", "llm.tokens_per_batch=1", "stage3.rows=1000000",
    "data.split=[0.999, 0.0005, 0.0005]", "data.split=[0.99, 0.005, 0.005]",
    "crm.history_length=10000", "llm.lora.rank=16384", "align.exponent=10",
    "stage1.learning_rate=10", "stage2.crm_learning_rate=10", "stage2.learning_rate=10",
]  # fmt: skip


@pytest.fixture
def check(attack, scratch):
    """Calls the command line and notes what became of it."""
    call(["--version"], scratch)  # starts the fork server, which takes seconds

    def go(what: str, *arguments: object, seconds: float = SECONDS) -> Outcome:
        found = call(arguments, scratch, seconds=seconds)
        bad = found.kind not in ("done", "refused")
        attack.note(found.kind, f"{what}: {found.text[-1500:]}", bad=bad)
        if found.kind == "refused":
            lines = [line for line in found.text.splitlines() if line.startswith("error: ")]
            errors = found.text[found.text.find("error: ") :].strip().splitlines()
            if len(lines) != 1 or len(errors) != 1:
                attack.note("error of several lines", f"{what}: {found.text[-500:]}", bad=True)
        return found

    return go


def as_bytes(content: Content) -> bytes:
    """The content of a case."""
    content = content() if callable(content) else content
    return content.encode() if isinstance(content, str) else content


def some(attack, cases: list, quick: int) -> list:
    """All cases, or a few that the seed chooses."""
    return attack.random.sample(cases, min(len(cases), attack.times(quick, len(cases))))


def configuration(directory: Path, log: Path) -> Path:
    """Settings of a log in tables of one's own."""
    items = directory / "items.csv"
    items.write_text(ITEMS)
    sections = {name: dict(section) for name, section in SECTIONS.items()}
    sections["interactions"]["files"], sections["items"]["files"] = str(log), str(items)
    path = directory / "c.toml"
    path.write_text(tomli_w.dumps({"data": sections}))
    return path


def test_hand_made_logs(attack, check, tmp_path):
    for what, ending, content in some(attack, list(logs()), 8):
        path = tmp_path / f"log.{ending}"
        path.write_bytes(as_bytes(content))
        found = check(what, "data", "check", "--config", configuration(tmp_path, path))
        assert what != "nothing" or found.kind == "done", found.text
        path.unlink()


def test_hand_made_zips(attack, check, movielens, tmp_path):
    for what, content in some(attack, list(bombs(movielens)), 3):
        path = tmp_path / "x.zip"
        path.write_bytes(as_bytes(content))
        check(what, "data", "check", "--set", f"data.path={path}")


def test_what_is_no_file(attack, check, tmp_path, finished):
    pipe, zero, folder, loop = (tmp_path / name for name in ("p.csv", "z.csv", "d.csv", "loop"))
    os.mkfifo(pipe)
    zero.symlink_to("/dev/zero")
    folder.mkdir()
    loop.mkdir()
    (loop / "a").symlink_to(loop)
    (tmp_path / "ml" / "x").mkdir(parents=True)
    os.mkfifo(tmp_path / "ml" / "u.data")
    log = ["data", "check", "--config"]
    cases = [
        *(("log", [*log, configuration(tmp_path, path)]) for path in (pipe, zero, folder)),
        *(("settings", [*log, path]) for path in (pipe, zero, folder, tmp_path / "none.toml")),
        *(("study", ["study", path, "--dry-run"]) for path in (pipe, zero, folder)),
        *(("init-data", ["init-data", path, "-o", tmp_path / "o.toml"]) for path in (pipe, zero)),
        *(
            ("pairs", ["predict", finished[0], path, "-o", tmp_path / "o.csv"])
            for path in (pipe, zero, folder)
        ),
        *(("scores", ["audit", path]) for path in (pipe, zero, folder)),
        *(
            ("data.path", ["data", "check", "--set", f"data.path={path}"])
            for path in (loop, "/", "/usr/share", "/dev", "/proc", pipe, zero, tmp_path / "ml")
        ),
        *(
            ("data.path", ["prepare", "--set", f"data.path={path}", "--out", tmp_path / "o"])
            for path in ("/usr/lib", "/")
        ),
    ]
    for what, arguments in some(attack, cases, 8):
        found = check(f"{what} {arguments}", *arguments, seconds=10)
        assert found.kind == "refused", found.text


def test_hand_made_pairs(attack, check, finished, tmp_path):
    for what, content in some(attack, list(PAIRS.items()), 4):
        path, output = tmp_path / "p.csv", tmp_path / "o.csv"
        path.write_bytes(as_bytes(content))
        check(what, "predict", finished[0], path, "-o", output)
    same = tmp_path / "same.csv"
    same.write_text("user,item\n1,1\n")
    assert check("output is input", "predict", finished[0], same, "-o", same).kind == "refused"
    assert same.read_text() == "user,item\n1,1\n"


def test_numbers_out_of_range(attack, check, tiny_settings, tmp_path):
    for setting in some(attack, NUMBERS, 5):
        given = settings(tiny_settings, setting)
        found = check(setting, "run", *given, "--out", tmp_path / "run", seconds=10)
        assert found.kind == "refused", (setting, found.text)
        assert not (tmp_path / "run").exists(), setting


def test_numbers_that_the_data_decide_on(attack, check, tiny_settings, tmp_path):
    for number, setting in enumerate([OF_THE_DATA[0], *some(attack, OF_THE_DATA[1:], 1)]):
        given = settings(tiny_settings, setting)
        found = check(setting, "run", *given, "--out", tmp_path / str(number), seconds=60)
        trained = "stage 1: " in found.text
        assert found.kind != "refused" or not trained, (setting, found.text)
