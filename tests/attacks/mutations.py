"""Random changes of files: of their bytes, and of the values in TOML and JSON."""

import copy
import io
import json
import random
import re
import tomllib
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import tomli_w

ODD = [
    float("nan"), float("inf"), -float("inf"), -1, 0, 1, 5, 0.5, 1.5, 1e308, 1e-320, 10**30,
    2**63, -(2**63), "", "x", "\0", "\u202e", "é" * 300, "a" * 100_000, "../../etc/passwd",
    "~nobody/x", "%s{}", "all", "best", "nan", "1e5", "2024-01-01", True, False, [], {}, [[]],
    [1, "a"], ["x"], [0.8, 0.1], [1e-300, 0.5, 0.5], [0.999, 0.0005, 0.0005], {"a": {"b": {}}},
]  # fmt: skip
PIECES = [
    b"\0", b'"', b"\n", b"\r", b"\r\n", b",", b"\t", b"\xef\xbb\xbf", b"\xff\xfe", b"::", b"|",
    b"[", b"{", b"}", b"\\", b"\x1a", b"\xe2\x80\xa8", b"\xed\xa0\x80", b"nan", b"inf", b"-1",
    b"1e400", b"99999999999999999999", b"9467085600000", b"''", b"'''", b'"""', b"#",
]  # fmt: skip

VALUES = [
    1, -1, 2**62, 0.5, float("nan"), float("inf"), 1e308, "", " ", "1", "x", "\0", "nan", True,
    b"1", [1], [[1]], ["a"], [b"a"], [], [None], {"a": 1}, [{"a": 1}], None, date(2020, 1, 1),
    datetime(1, 1, 1), datetime(9999, 12, 31), time(1), timedelta(1), Decimal("1.5"),
]  # fmt: skip
VALUE = re.compile(rb"[^,:|\t\n\"]+")  # of delimited text or JSON


def mutate_bytes(random: random.Random, content: bytes) -> bytes:
    """A few random changes: bytes replaced, removed, repeated, inserted, cut off."""
    changed = bytearray(content)
    for _ in range(random.choice([1, 1, 2, 5, 20])):
        place = random.randrange(len(changed) + 1)
        match random.randrange(11):
            case 7 | 8 | 9:
                values = list(VALUE.finditer(changed))
                if values:
                    begin, end = random.choice(values).span()
                    changed[begin:end] = random.choice(PIECES)
            case 0 | 1:
                changed[place : place + 1] = random.randbytes(1)
            case 2:
                del changed[place : place + random.choice([1, 1, 3, 50])]
            case 3:
                changed[place:place] = random.randbytes(random.choice([1, 3, 20]))
            case 4:
                changed[place:place] = random.choice(PIECES)
            case 5:
                begin = random.randrange(len(changed) + 1)
                changed[place:place] = changed[begin : begin + random.choice([10, 100])]
            case 6:
                word = random.choice([b"x", b"9", b" ", b"a,b", b"["])
                changed[place:place] = word * random.choice([100, 5000, 200_000])
            case _:
                changed = changed[:place] + random.choice([b"", b"", b"\0" * 100, b"\n\n", b"junk"])
    return bytes(changed)


def mutate_tree(random: random.Random, tree: dict[str, Any]) -> dict[str, Any]:
    """Values replaced by odd ones, removed, or put under another key."""
    changed = copy.deepcopy(tree)
    for _ in range(random.choice([1, 1, 1, 2, 5])):
        section: dict[str, Any] = changed
        while keys := list(section):
            key = random.choice(keys)
            if isinstance(section[key], dict) and section[key] and random.random() < 0.9:
                section = section[key]
                continue
            match random.randrange(8):
                case 0:
                    del section[key]
                case 1:
                    section[key + random.choice(["x", " ", "é", "."])] = random.choice(ODD)
                case _:
                    section[key] = copy.deepcopy(random.choice(ODD))
            break
    return changed


def mutate_column(random: random.Random, content: bytes) -> bytes:
    """A Parquet file with values of another type in one of its columns, or without it."""
    table = pl.read_parquet(content)
    name = random.choice(table.columns)
    value = random.choice(VALUES)
    values = [value if random.random() < 0.7 else None for _ in range(table.height)]
    buffer = io.BytesIO()
    with_odd = table.with_columns(pl.Series(name, values, strict=False))
    (table.drop(name) if random.random() < 0.1 else with_odd).write_parquet(buffer)
    return buffer.getvalue()


def mutate(random: random.Random, name: str, content: bytes) -> bytes:
    """A random change of a file's content, of its values where it is TOML or a JSON object."""
    forms = {".toml": (tomllib.loads, tomli_w.dumps), ".json": (json.loads, json.dumps)}
    loads, dumps = forms.get(name[-5:], (None, None))
    if name.endswith(".parquet") and random.random() < 0.6:
        return mutate_column(random, content)
    if loads and dumps and random.random() < 0.6:
        with suppress(json.JSONDecodeError):  # JSON lines are no object
            tree = mutate_tree(random, loads(content.decode()))
            return dumps(tree).encode("utf-8", "replace")
    return mutate_bytes(random, content)
