"""What is fuzzed: the files of each kind of input as they should be, and what reads them."""

import gzip
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import polars as pl
import torch
from zst import compress as zst

from corellarec.cascade.cascade import Cascade
from corellarec.cascade.files import predict_file
from corellarec.config import load_config, parse_config, to_toml
from corellarec.crm.external import external_logits
from corellarec.data.log import Log
from corellarec.data.prepare import build
from corellarec.data.wizard import propose_settings
from corellarec.evaluation.audit import audit
from corellarec.llm.layout import build_layout
from corellarec.llm.load import load_tokenizer
from corellarec.llm.lora import TunedAdapter
from corellarec.research.study.cells import cells
from corellarec.research.study.spec import load_study

ROWS = [
    (f"u{n * 7 % 12}", f"i{n * 11 % 15}", 1 + n * n % 5, 1_600_000_000 + 3600 * n)
    for n in range(160)
]
LOG = pl.DataFrame(ROWS, ["user", "item", "rating", "time"], orient="row")
ITEMS = pl.DataFrame(
    {
        "item": [f"i{n}" for n in range(15)],
        "title": [f'Title, {n} "q"' for n in range(15)],
        "tags": ["a|b"] * 15,
        "price": [n * 1.5 for n in range(15)],
        "brand": ["x", "y", None] * 5,
    }
)
SECTIONS = {
    "interactions": {"user": "user", "item": "item", "time": "time", "rating": "rating"},
    "items": {
        "title": "title",
        "categorical": ["brand"],
        "multi": {"tags": "|"},
        "numeric": ["price"],
    },
}


@dataclass(frozen=True)
class Target:
    """One kind of input.

    Args:
        files: Content of each file as it should be.
        read: Reads the files of a directory, as a command does.
        pack: What stands between a file's content and its bytes, such as gzip.
    """

    files: Mapping[str, bytes]
    read: Callable[[Path], object]
    pack: Callable[[bytes], bytes] = bytes


def table_bytes(table: pl.DataFrame, ending: str) -> bytes:
    """A table as a file's bytes."""
    buffer = io.BytesIO()
    match ending:
        case "csv":
            table.write_csv(buffer)
        case "tsv":
            table.write_csv(buffer, separator="\t")
        case "jsonl":
            table.write_ndjson(buffer)
        case "parquet":
            table.write_parquet(buffer)
    return buffer.getvalue()


def zip_bytes(files: Mapping[str, bytes]) -> bytes:
    """A zip of files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def own_log(directory: Path, ending: str, **more: str) -> object:
    """Settings of a log in tables of one's own."""
    sections = {name: dict(section) for name, section in SECTIONS.items()}
    sections["interactions"]["files"] = str(directory / f"log.{ending}")
    sections["items"]["files"] = str(directory / f"items.{ending}")
    return parse_config({"data": {**sections, **more}}).data


def own_tables() -> dict[str, Target]:
    """Logs in tables of one's own, of every ending."""
    packed = {"": bytes, ".gz": gzip.compress, ".zst": zst}
    endings = [*((kind, "") for kind in ("csv", "tsv", "jsonl", "parquet")),
               ("csv", ".gz"), ("jsonl", ".gz"), ("csv", ".zst"), ("jsonl", ".zst")]  # fmt: skip
    targets = {}
    for kind, how in endings:
        ending = kind + how
        names = (f"log.{ending}", f"items.{ending}")
        files = dict(zip(names, (table_bytes(table, kind) for table in (LOG, ITEMS)), strict=True))

        def read(directory: Path, ending: str = ending) -> None:
            build(own_log(directory, ending))

        def propose(directory: Path, names: tuple[str, ...] = names) -> None:
            propose_settings([directory / name for name in names], {})

        targets[ending] = Target(files, read, packed[how])
        targets[f"init-data {ending}"] = Target(files, propose, packed[how])
    return targets


def layouts(movielens: Path) -> dict[str, Target]:
    """Logs in the known layouts."""
    ratings = [(user[1:], item[1:], rating, time) for user, item, rating, time in ROWS]
    asins = [f"{n:010}" for n in range(15)]
    meta = [
        {"asin": asin, "title": f"Film {asin}", "brand": "x", "categories": [["a", "b"]]}
        for asin in asins
    ]
    reviews = [
        {"reviewerID": user, "asin": asins[int(item)], "overall": rating, "unixReviewTime": time}
        for user, item, rating, time in ratings
    ]
    ml100k = {name: (movielens / name).read_bytes() for name in ("u.data", "u.item", "u.user")}

    def lines(*parts: object) -> bytes:
        return "".join(f"{line}\n" for line in parts).encode()

    folders = {
        "ml-100k": ml100k,
        "ml-1m": {
            "ratings.dat": lines(*("::".join(map(str, row)) for row in ratings)),
            "movies.dat": lines(*(f"{n}::Film {n} (1990)::Drama|War" for n in range(15))),
            "users.dat": lines(*(f"{n}::M::25::{n}::1000{n}" for n in range(12))),
        },
        "ml-20m": {
            "ratings.csv": lines(
                "userId,movieId,rating,timestamp", *(",".join(map(str, row)) for row in ratings)
            ),
            "movies.csv": lines(
                "movieId,title,genres", *(f'{n},"Film, {n} (1990)",Drama|War' for n in range(15))
            ),
        },
        "atomic": {
            "x.inter": lines(
                "user_id:token\titem_id:token\trating:float\ttimestamp:float",
                *("\t".join(map(str, row)) for row in ratings),
            ),
            "x.item": lines(
                "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq",
                *(f"{n}\tFilm {n}\t1990\tDrama War" for n in range(15)),
            ),
            "x.user": lines("user_id:token\tage:float", *(f"{n}\t{20 + n}" for n in range(12))),
        },
        "amazon ratings": {
            "ratings_X.csv": lines(*(f"{u},{asins[int(i)]},{r}.0,{t}" for u, i, r, t in ratings)),
            "meta_X.json": lines(*meta),  # Python's notation, as of 2014
        },
        "amazon reviews": {
            "reviews_X_5.json": lines(*map(json.dumps, reviews)),
            "meta_X.json": lines(*map(json.dumps, meta)),
        },
    }

    def read(directory: Path) -> None:
        build(parse_config({"data": {"path": str(directory)}}).data)

    targets = {name: Target(files, read) for name, files in folders.items()}
    archive = {f"ml-100k/{name}": content for name, content in ml100k.items()}
    targets["zip"] = Target(
        {"x.zip": zip_bytes(archive)},
        lambda directory: build(parse_config({"data": {"path": str(directory / "x.zip")}}).data),
    )
    return targets


def settings() -> dict[str, Target]:
    """Configurations and studies."""
    quick = to_toml(load_config(preset="quick")).encode()
    own = ["data.path=a", "crm.external.scores=b", "llm.adapter=c", "data.item_vectors=d"]
    more = to_toml(load_config(preset="ml-1m/din", settings=own)).encode()

    def read(directory: Path) -> None:
        config = load_config(preset="quick", files=[directory / "c.toml"])
        again = directory / "again.toml"
        again.write_text(to_toml(config), "utf-8")
        assert load_config(files=[again]) == config

    def study(directory: Path) -> None:
        cells(*load_study(str(directory / "s.toml")), directory / "study")

    def set_one(directory: Path) -> None:
        text = (directory / "set.txt").read_bytes().decode("utf-8", "replace")
        load_config(preset="quick", settings=[text])

    grids = resources.files("corellarec.research.study") / "grids"
    targets = {
        "configuration quick": Target({"c.toml": quick}, read),
        "configuration ml-1m": Target({"c.toml": more}, read),
    }
    for text in ("crm.dropout=0.5", "data.split=[0.8, 0.1, 0.1]", "cascade.budget='best'",
                 "align.pairs=[['last', 'last']]", "llm.lora.rank=8"):  # fmt: skip
        targets[f"--set {text}"] = Target({"set.txt": text.encode()}, set_one)
    for grid in ("ml-100k", "ml-1m"):
        content = (grids / f"{grid}.toml").read_bytes()
        targets[f"study {grid}"] = Target({"s.toml": content}, study)
    return targets


def beside_the_log(movielens: Path, tiny_llm: Path, prepared: Path) -> dict[str, Target]:
    """Templates, adapters, item vectors and external scores."""
    log = Log.load(prepared)
    later = log.rows.with_columns(pl.col("time").dt.offset_by("20y"))  # than the adapter's
    later = Log(later, log.users, log.items, log.features)
    tokenizer = load_tokenizer(str(tiny_llm))
    package = resources.files("corellarec.llm")
    quick = load_config(preset="quick")

    def template(directory: Path) -> None:
        for layout in ("stream", "paper"):
            config = load_config(
                preset="quick",
                settings=[f"llm.template={directory / 't.toml'}", f"llm.layout={layout}",
                          "llm.history_length=5", "llm.window=20"],
            )  # fmt: skip
            built = build_layout(config.llm, log, tokenizer)
            built.encode(log.samples(log.rows_of("test")[:20]))
            built.encode(log.pairs(torch.tensor([-1, 0]), torch.tensor([0, 1])))

    def vectors(directory: Path) -> None:
        build(own_log(directory, "csv", item_vectors=str(directory / "v.parquet")))

    scores = log.rows.select(
        user=log.users["id"].gather(log.rows["user"]),
        item=log.items["id"].gather(log.rows["item"]),
        time=pl.col("time").dt.epoch("us"),
        score=pl.lit(0.3),
    ).filter(log.rows["split"].is_in([1, 2]))

    def external(ending: str) -> Callable[[Path], object]:
        def read(directory: Path) -> None:
            path = directory / f"e.{ending}"
            external_logits(
                parse_config(
                    {"crm": {"model": "external", "external": {"scores": str(path)}}}
                ).crm.external,
                log,
            )

        return read

    adapter = {
        path.name: path.read_bytes()
        for path in (Path(str(package)) / "adapters" / "ml-100k").iterdir()
    }
    tables = {f"{name}.csv": table_bytes(t, "csv") for name, t in (("log", LOG), ("items", ITEMS))}
    vector = ITEMS.select("item", vector=pl.concat_list("price", "price"))
    targets = {
        "adapter": Target(adapter, lambda d: TunedAdapter(str(d)).check(quick.llm, later)),
        "item vectors": Target({**tables, "v.parquet": table_bytes(vector, "parquet")}, vectors),
    }
    for name in ("movies-liked", "items"):
        content = (package / "templates" / f"{name}.toml").read_bytes()
        targets[f"template {name}"] = Target({"t.toml": content}, template)
    for ending in ("csv", "parquet"):
        files = {f"e.{ending}": table_bytes(scores, ending)}
        targets[f"external scores {ending}"] = Target(files, external(ending))
    return targets


def of_a_cascade(run: Path) -> dict[str, Target]:
    """Tables that a cascade is given, and scores to audit."""

    def cascade() -> Cascade:
        return Cascade.load(run, device="cpu")

    loaded = cascade()
    users, items = loaded.log.users["id"], loaded.log.items["id"]
    pairs = pl.DataFrame(
        {
            "user": [users[i % 20] for i in range(30)],
            "item": [items[i % 25] for i in range(30)],
            "time": [890_000_000 + i for i in range(30)],
            "note": [f"n, {i}" for i in range(30)],
        }
    )
    events = pairs.select("user", "item", "time", rating=pl.lit(4.5))
    new = pl.DataFrame(
        {"id": ["new1", "new2"], "title": ["A (1999)", "B"], "year": ["1999", None],
         "genres": [["Drama"], ["War", "x"]]}
    )  # fmt: skip
    n = torch.arange(240)
    audited = pl.DataFrame(
        {
            "label": (n % 2).numpy(),
            "crm": ((n * 37 % 101) / 101).numpy(),
            "llm": ((n * 53 % 97) / 97).numpy(),
            "user": (n % 40).numpy(),
            "time": (1_600_000_000 + n).numpy(),
        }
    )
    reads: dict[str, tuple[pl.DataFrame, Callable[[Path], object]]] = {
        "pairs": (pairs, lambda path: predict_file(loaded, path, path.with_name("o.csv"))),
        "events": (events, lambda path: cascade().observe(path)),
        "new items": (new, lambda path: cascade().add_items(path)),
        "audited scores": (
            audited,
            lambda path: audit(path, user="user", time="time", bootstrap=2),
        ),
    }
    targets = {}
    for name, (table, read) in reads.items():
        for ending in ("csv", "parquet"):
            if ending == "csv" and name == "new items":
                table = table.with_columns(pl.col("genres").list.join("|"))
            targets[f"{name} {ending}"] = Target(
                {f"t.{ending}": table_bytes(table, ending)},
                lambda d, read=read, ending=ending: read(d / f"t.{ending}"),
            )
    return targets
