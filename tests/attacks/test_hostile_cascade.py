"""A cascade made by a stranger, its checksums in order: refused in one line, or harmless.

Nothing that it names is imported, fetched or read outside it, whatever it holds.
"""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import pytest
import torch
from calls import Outcome, call
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file

from corellarec.base.artifacts import MANIFEST, write_manifest, write_sealed, writing
from corellarec.base.errors import CorellarecError
from corellarec.cascade.cascade import Cascade
from corellarec.config import CrmConfig
from corellarec.crm.build import build_crm
from corellarec.data.preparation import Features
from corellarec.llm.load import load_model
from corellarec.llm.lora import load_adapter

Tree = dict[str, Any]
SECONDS = 20.0
CPU = torch.device("cpu")
NAN, INFINITY = float("nan"), float("inf")
ESCAPES = "\x1b[2J\u202e"


# Changes of cascade.json: each takes its tree, and changes it or returns another content.


def put(place: str, value: object) -> Callable[[Tree], None]:
    """Sets one value, at names and numbers with dots between them."""

    def change(tree: Tree) -> None:
        *path, last = (int(part) if part.isdigit() else part for part in place.split("."))
        part: Any = tree
        for step in path:
            part = part[step]
        part[last] = value

    return change


def without(key: str) -> Callable[[Tree], None]:
    return lambda tree: tree.__delitem__(key)


def text(content: str) -> Callable[[Tree], str]:
    return lambda tree: content


def line(content: str, part: str = "stream.line") -> Callable[[Tree], None]:
    return put(f"template.{part}", content)


def own_class(name: str, **options: object) -> Callable[[Tree], None]:
    return lambda tree: tree["crm"].update(model=name, options=options)


def sizes(**sizes: object) -> Callable[[Tree], None]:
    return lambda tree: tree["llm"].update(sizes)


# Changes of the directory.


def adapter(**settings: object) -> Callable[[Path], None]:
    """Settings of the adapter's configuration."""

    def change(directory: Path) -> None:
        path = directory / "adapter" / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))

    return change


def removed(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).unlink()


def holds(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda directory: void((directory / name).write_bytes(content))


def void(_: object) -> None:
    """Nothing."""


def damaged(name: str, how: str) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        path = directory / name
        whole = path.read_bytes()
        parts = {
            "cut": whole[: len(whole) // 2],
            "empty": b"",
            "zeroed": whole[:60] + bytes(60) + whole[120:],
            "without its end": whole[:-9],
            "with zeros behind": whole + bytes(8),
        }
        path.write_bytes(parts[how])

    return change


def table(name: str, change: Callable[[pl.DataFrame], pl.DataFrame]) -> Callable[[Path], None]:
    """Another content of a Parquet file."""

    def rewrite(directory: Path) -> None:
        path = directory / f"{name}.parquet"
        change(pl.read_parquet(path)).write_parquet(path)

    return rewrite


def column(name: str, column: str, value: object, kind: Any = None) -> Callable[[Path], None]:
    """Another value in all rows of a column; of the column's type, or of ``kind``."""
    return table(
        name,
        lambda frame: frame.with_columns(pl.lit(value, kind or frame.schema[column]).alias(column)),
    )


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def rewrite(directory: Path) -> None:
        state = load_file(directory / "crm.safetensors")
        change(state)
        save_file(state, directory / "crm.safetensors")

    return rewrite


def link(name: str, target: str) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        (directory / name).unlink()
        (directory / name).symlink_to(target)

    return change


def copied_outside(name: str) -> Callable[[Path], None]:
    """The file lies outside, and a link leads to it."""

    def change(directory: Path) -> None:
        outside = directory.with_name(".made.outside")
        shutil.move(directory / name, outside)
        (directory / name).symlink_to(outside)

    return change


class Opens:
    """Writes the canary when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return open, ("CANARY", "w")


def with_one_title(items: pl.DataFrame) -> pl.DataFrame:
    many = pl.concat([items] * 100).with_columns(pl.lit("x" * 10**5).alias("title"))
    return many.with_columns(id=pl.int_range(pl.len()).cast(pl.String))


PICKLE = pickle.dumps({"x": Opens()}, 2)


def pickled_adapter(directory: Path) -> None:
    (directory / "adapter" / "adapter_model.safetensors").unlink()
    (directory / "adapter" / "adapter_model.bin").write_bytes(PICKLE)


def header(length: int, content: bytes = b"{}") -> bytes:
    """Begin of a safetensors file."""
    return length.to_bytes(8, "little") + content


MANY = json.dumps({f"x{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
                   for i in range(300_000)}).encode()  # fmt: skip

LISTS: Tree = {  # a policy of lists in order
    "length": 3, "budget": 0.1, "threshold": None,
    "blend": {"base_weight": 1.0, "expert_weight": 1.0},
    "value": {"weights": [0.0] * 7, "bias": 1.0, "low": [0.0] * 7, "high": [1.0] * 7},
    "verdict": {"helps": True, "routed": 100, "gain": 1.0, "bound": 1.0},
}  # fmt: skip
FIELDS = (
    "{title:d}", "{title!x}", "{title!r}", "{title:{liked.__class__}}", "{title:{nope}}",
    "{title.__class__}", "{title[0]}", "{}", "{0}", "{", "}", "{title", "{{}", "{title:}",
    "{liked:c}", "{title:%}", "{ title }", "{nope}",
)  # fmt: skip
JSON_KEYS = (
    "crm", "llm", "template", "router", "features", "history", "seed", "positive_rating",
    "format",
)  # fmt: skip
SECTIONS = (
    "crm", "llm", "template", "router", "features", "history", "format", "seed",
)  # fmt: skip
JSON_VALUES = (
    ("format", 1), ("format", 3), ("seed", 0.5), ("seed", True), ("positive_rating", NAN),
    ("positive_rating", INFINITY), ("positive_rating", "4"), ("router.budget", "x"),
    ("router.budget", NAN), ("router.budget", -0.1), ("router.budget", 1.1),
    ("router.budget", INFINITY), ("router.budget", 10**400), ("router.hard", 1),
    ("router.policy", "nope"), ("router.combine", "nope"), ("router.rules", {}),
    ("router.rules.entropy", {}), ("router.rules.nope", {}),
    ("router.rules.entropy.threshold", NAN), ("router.rules.entropy.threshold", "x"),
    ("router.rules.entropy.threshold", -INFINITY), ("router.rules.entropy.threshold", 10**400),
    ("router.rules.entropy.verdict.routed", -5),
    ("router.rules.entropy.verdict.routed", 10**4000), ("router.rules.entropy.verdict.gain", NAN),
    ("router.rules.entropy.verdict.bound", INFINITY), ("router.rules.entropy.share.rows", 0),
    ("router.rules.entropy.share.bound", 7), ("router.crm", {"weights": [1, 2, 3], "bias": 0}),
    ("router.crm", {"weights": [], "bias": 0}), ("router.llm", {"weights": [1, 2, 3], "bias": 0}),
    ("router.crm.bias", NAN), ("router.crm.bias", 1e308), ("router.llm.weights", [-1e308]),
    ("router.gain", {}), ("router.gain.weights", []), ("router.gain.low", [0]),
    ("router.gain.high", [NAN] * 6), ("router.gain.weights", [1e308] * 27),
    ("router.blend.weights", []), ("router.blend.weights", [NAN] * 6),
    ("router.blend.longest", 0), ("router.blend.longest", -1), ("router.blend.longest", NAN),
    ("router.extra", 1), ("features.user", []), ("features.item", []),
    ("features.user.0.name", "../x"), ("features.user.0.name", "nope"),
    ("features.user.0.vocabulary", 0), ("features.user.0.vocabulary", 1),
    ("features.user.0.vocabulary", -1), ("features.item.0.width", -1),
    ("features.item.0.width", 0), ("features.item.0.width", 3),
    ("features.user_values", [{"name": "age", "width": 1}]),
    ("features.item_values", [{"name": "title", "width": 2}]), ("features.ratings", [NAN]),
    ("features.ratings", [5, 4, 3]), ("features.ratings", []), ("features.ratings", [1.0]),
    ("history", "nope"), ("history", "positives"), ("crm.model", "nope"),
    ("crm.model", "external"), ("crm.model", ":"), ("crm.model", "../store"), ("crm.model", "lr"),
    ("crm.model", "stream"), ("crm.model", "fignn"), ("crm.dtype", "x"), ("crm.dtype", "float64"),
    ("crm.history", "x"), ("crm.history", "mean"), ("crm.statistics", True), ("crm.dropout", NAN),
    ("crm.deep_layers", []), ("crm.transformer", {"heads": 3}), ("crm.extra", 1),
    ("crm.embedding_dim", 8.5), ("crm.embedding_dim", -1), ("llm.layout", "paper"),
    ("llm.layout", "x"), ("llm.dtype", "int8"), ("llm.title_year", 1), ("llm.window", 1),
    ("llm.lora", {"alpha": NAN}), ("time_zone", 5), ("time_zone", "../../etc/passwd"),
    ("time_format", 5),
    ("lists", 5), ("lists", []), ("lists", LISTS | {"length": 0}),
    ("lists", LISTS | {"length": 2**31 - 1}), ("lists", LISTS | {"length": 10**400}),
    ("lists", LISTS | {"budget": 1.1}), ("lists", LISTS | {"threshold": NAN}),
    ("lists", LISTS | {"blend": {"base_weight": -1.0, "expert_weight": 0.0}}),
    ("lists", LISTS | {"value": LISTS["value"] | {"weights": [0.0] * 6}}),
    ("lists", LISTS | {"verdict": {}}),
)  # fmt: skip
DROPPED_COLUMNS = (
    ("rows", "user"), ("rows", "label"), ("rows", "time"), ("rows", "split"), ("users", "id"),
    ("users", "train_rows"), ("users", "age"), ("users", "age_code"), ("items", "id"),
    ("items", "title"), ("items", "genres"), ("items", "genres_code"),
)  # fmt: skip
CELLS = (
    ("rows", "user", 10**6, None), ("rows", "user", -1, None), ("rows", "user", None, None),
    ("rows", "user", "x", pl.String), ("rows", "user", 0.5, pl.Float64),
    ("rows", "item", 10**6, None), ("rows", "item", -7, None), ("rows", "item", 2**40, pl.Int64),
    ("rows", "label", 7, None), ("rows", "label", -1, None), ("rows", "label", None, None),
    ("rows", "label", True, pl.Boolean), ("rows", "level", 100, pl.Int8),
    ("rows", "level", -1, pl.Int8), ("rows", "split", 9, None), ("rows", "split", -1, None),
    ("rows", "time", None, None), ("rows", "time", 5, pl.Int64),
    ("rows", "time", 2**63 - 1, None), ("users", "id", "x", None), ("users", "id", None, None),
    ("users", "id", 5, pl.Int64), ("users", "train_rows", -5, None),
    ("users", "train_rows", None, None), ("users", "train_rows", 0.5, pl.Float64),
    ("users", "age_code", 10**6, None), ("users", "age_code", -1, None),
    ("users", "age_code", None, None), ("users", "age", b"x", pl.Binary),
    ("items", "id", "x", None), ("items", "title", 5, pl.Int64), ("items", "title", None, None),
    ("items", "title", ESCAPES, None), ("items", "train_rows", 2**62, None),
)  # fmt: skip
STORED_FILES = (
    "crm.safetensors", "rows.parquet", "users.parquet", "items.parquet", "cascade.json",
    "adapter/adapter_model.safetensors", "adapter/adapter_config.json",
)  # fmt: skip
ADAPTER_SETTINGS = (
    ("r", 3), ("r", 0), ("r", "8"), ("lora_alpha", NAN), ("lora_alpha", -1),
    ("lora_alpha", 1e308), ("lora_alpha", "x"), ("target_modules", []),
    ("target_modules", ["nope"]), ("target_modules", [5]), ("target_modules", None),
    ("target_modules", ["q_proj"]), ("target_modules", ["embed_tokens"]),
    ("layers_to_transform", [0]), ("layers_to_transform", [10**9]), ("layers_to_transform", "x"),
    ("lora_dropout", NAN), ("bias", "all"), ("modules_to_save", ["lm_head"]), ("use_dora", True),
    ("rank_pattern", {"q_proj": 2}), ("alpha_pattern", {"q_proj": 1e9}),
    ("trainable_token_indices", [1]), ("use_rslora", True), ("extra", 1),
    ("task_type", "SEQ_CLS"), ("loftq_config", {"a": 1}), ("lora_bias", True),
    ("peft_type", None),
)  # fmt: skip

CODE: dict[str, Callable[[Tree], object]] = {
    "a class in the working directory": own_class("evil:Model"),
    "os:system": own_class("os:system"),
    "subprocess:Popen": own_class("subprocess:Popen", shell=True),
    "transformers:pipeline": own_class(
        "transformers:pipeline", model="evilmodel", trust_remote_code=True
    ),
    "options of a class": put("crm.options", {"a": 1}),
    "model with code of its own": put("llm.model", "evilmodel"),
    "model whose tokenizer has code": put("llm.model", "eviltokenizer"),
}
CODE_FILES: dict[str, Callable[[Path], object]] = {
    "adapter is a pickle": pickled_adapter,
    "adapter's weights are a pickle": holds("adapter/adapter_model.safetensors", PICKLE),
    "crm.safetensors is a pickle": holds("crm.safetensors", PICKLE),
    "adapter names a module as megatron": adapter(megatron_config={"a": 1}, megatron_core="evil"),
    "adapter maps to a module": adapter(
        auto_mapping={"base_model_class": "Model", "parent_library": "evil"}
    ),
    "adapter of another kind": adapter(peft_type="PROMPT_TUNING"),
    "adapter names a hub model": adapter(base_model_name_or_path="evil-owner/evil-model"),
    "adapter initialised by EVA": adapter(init_lora_weights="eva"),
    "adapter of a revision": adapter(revision="main"),
}
OUTSIDE: dict[str, Callable[[Tree], object]] = {
    "hub name": put("llm.model", "evil-owner/evil-model"),
    "hub name with dots": put("llm.model", "../evil"),
    "model is /etc": put("llm.model", "/etc"),
    "model is not there": put("llm.model", "/nowhere/model"),
    "model is a device": put("llm.model", "/dev/zero"),
    "model is a device called .gguf": put("llm.model", "endless.gguf"),
    "model has a NUL": put("llm.model", "a\0b"),
    "model of another user": put("llm.model", "~nobody/x/y"),
    "model is a long name": put("llm.model", "x" * 100_000),
    "template is /etc/passwd": put("llm.template", "/etc/passwd"),
    "adapter setting is /etc": put("llm.adapter", "/etc"),
    "external scores": lambda tree: tree["crm"].update(
        model="external", external={"scores": "/etc/passwd", "kind": "logit"}
    ),
}
OUTSIDE_FILES: dict[str, Callable[[Path], object]] = {
    "rows are a link to /dev/zero": link("rows.parquet", "/dev/zero"),
    "crm is a link outside": copied_outside("crm.safetensors"),
    "adapter's settings are a link outside": copied_outside("adapter/adapter_config.json"),
    "the adapter is a link outside": copied_outside("adapter"),
    "cascade.json is a link outside": copied_outside("cascade.json"),
}
MEMORY: dict[str, Callable[[Tree], object]] = {
    "vocabulary 10**12": put("features.user.0.vocabulary", 10**12),
    "vocabulary 5 * 10**7": put("features.user.0.vocabulary", 5 * 10**7),
    "width 10**9": put("features.item.0.width", 10**9),
    "embedding_dim 10**9": put("crm.embedding_dim", 10**9),
    "embedding_dim 10**5": put("crm.embedding_dim", 10**5),
    "deep_layers [10**9]": put("crm.deep_layers", [10**9]),
    "deep_layers of 10**6 layers": put("crm.deep_layers", [1] * 10**6),
    "cross_layers 10**9": put("crm.dcnv2.cross_layers", 10**9),
    "history_length 10**18": put("crm.history_length", 10**18),
    "history_length 10**9": put("crm.history_length", 10**9),
    "stream of 10**9 layers": lambda tree: tree["crm"].update(
        model="stream", stream={"layers": 10**9}
    ),
    "stream's window 10**12": lambda tree: tree["crm"].update(
        model="stream", stream={"window": 10**12}
    ),
    "bst of 10**9 blocks": lambda tree: tree["crm"].update(
        model="bst", transformer={"blocks": 10**9}
    ),
    "llm.history_length 10**18": sizes(history_length=10**18, window=10**18 + 1),
    "llm.window 10**30": sizes(window=10**30),
    "title padded to 2 * 10**9": line("{title:>2000000000} ->"),
    "title padded to 4 * 10**7": line("{title:>40000000} ->"),
    "precision of 10**9": line("{title:.1000000000} ->"),
    "a line of 10**7 characters": line("x" * 10**7),
    "a line of 10**5 titles": line("{title}" * 10**5),
    "an answer of 10**7 characters": line("y" * 10**7, "stream.yes"),
    "tokens_per_batch 1": sizes(tokens_per_batch=1),
    "tokens_per_batch 10**15": sizes(tokens_per_batch=10**15),
    "a number of 10**5 digits": text('{"seed": ' + "1" * 10**5 + "}"),
    "seed of 4000 digits": put("seed", 10**4000),
    "10**6 ratings": put("features.ratings", list(range(10**6))),
    "a key of 10**7 characters": put("x" * 10**7, 1),
}
MEMORY_FILES: dict[str, Callable[[Path], object]] = {
    "rank 10**9": adapter(r=10**9),
    "rank 10**5": adapter(r=10**5),
    "header of 2**62": holds("crm.safetensors", header(2**62)),
    "header of 300,000 tensors": holds("crm.safetensors", header(len(MANY), MANY)),
    "tensor of 2**60": holds(
        "crm.safetensors",
        header(70, b'{"x":{"dtype":"F32","shape":[1152921504606846976],"data_offsets":[0,0]}}'),
    ),
    "adapter's header of 2**62": holds("adapter/adapter_model.safetensors", header(2**62)),
    "adapter of all linear layers": adapter(target_modules="all-linear"),
    "adapter of a slow pattern": adapter(target_modules="(a+)+$"),
    "adapter with layers replicated": adapter(layer_replication=[[0, 2]] * 10**4),
    "10**9 rows in some bytes": table(
        "rows",
        lambda frame: (
            frame.head(1)
            .lazy()
            .select(pl.all().repeat_by(3 * 10**7).explode(empty_as_null=False))
            .collect()
        ),
    ),
    "5,000 titles of 10**5 characters, once on disk": table("items", with_one_title),
    "titles of 10**5 characters": column("items", "title", "x" * 10**5),
}
MALFORMED: dict[str, Callable[[Tree], object]] = {
    **{f"line {content}": line(content + " ->") for content in FIELDS},
    **{
        f"{part} {{title:d}}": line("{title:d}", part)
        for part in ("stream.heading", "paper.prompt", "paper.rated", "paper.target")
    },
    "no arrow": line(""),
    "answer of two tokens": line(" Yes, of course", "stream.yes"),
    "answers alike": line(" No", "stream.yes"),
    "answer with a line break": line("\n", "stream.yes"),
    "line is a number": put("template.stream.line", 5),
    "empty": text(""),
    "a list": text("[]"),
    "null": text("null"),
    "nested 200,000 deep": text("[" * 200_000),
    "objects nested 200,000 deep": text('{"crm":' * 200_000),
    "not UTF-8": text("\udcff"),
    "options nested": put("crm.options", {"a": [[[[[[]]]]]]}),
    **{f"without {key}": without(key) for key in JSON_KEYS},
    **{
        f"{key} = {value!r}": put(key, value)
        for key in SECTIONS
        for value in (5, [], "x")
        if (key, value) not in (("seed", 5),)
    },
    **{f"{place} = {value!r}": put(place, value) for place, value in JSON_VALUES},
}
MALFORMED_FILES: dict[str, Callable[[Path], object]] = {
    **{
        f"{name}.parquet {how}": damaged(f"{name}.parquet", how)
        for name in ("rows", "users", "items")
        for how in ("cut", "empty", "zeroed", "without its end", "with zeros behind")
    },
    **{
        f"{name} is {other}": lambda d, name=name, other=other: shutil.copy(
            d / f"{other}.parquet", d / f"{name}.parquet"
        )
        for name, other in (("rows", "users"), ("users", "items"), ("items", "rows"))
    },
    "rows.parquet is a CSV": holds("rows.parquet", b"user,item,label,time,split\n1,1,1,1,1\n"),
    "rows.parquet is a directory": lambda d: void(
        ((d / "rows.parquet").unlink(), (d / "rows.parquet").mkdir())
    ),
    **{
        f"no {name} at all": table(name, lambda frame: frame.clear())
        for name in ("rows", "users", "items")
    },
    **{
        f"{name} without {column}": table(name, lambda frame, c=column: frame.drop(c))
        for name, column in DROPPED_COLUMNS
    },
    **{
        f"{name}.{at} = {value!r}": column(name, at, value, kind) for name, at, value, kind in CELLS
    },
    "users out of order": table("rows", lambda frame: frame.reverse()),
    "genres of another width": table(
        "items", lambda frame: frame.with_columns(genres_code=pl.col("genres_code").arr.first())
    ),
    "a weight is missing": weights(lambda state: state.pop(min(state))),
    "a weight too many": weights(lambda state: state.update(x=torch.zeros(1))),
    "a weight is NaN": weights(lambda state: state[min(state)].fill_(NAN)),
    "a weight is infinite": weights(lambda state: state[max(state)].fill_(INFINITY)),
    "a weight is int8": weights(lambda state: state.update({min(state): state[min(state)].char()})),
    "weights are float64": weights(
        lambda state: state.update({name: w.double() for name, w in state.items()})
    ),
    "a weight of another shape": weights(
        lambda state: state.update({min(state): state[min(state)][None].contiguous()})
    ),
    **{
        f"{name} {how}": damaged(name, how)
        for name in ("crm.safetensors", "adapter/adapter_model.safetensors")
        for how in ("cut", "empty", "zeroed", "without its end")
    },
    **{f"{name} missing": removed(name) for name in STORED_FILES},
    "no adapter": lambda d: shutil.rmtree(d / "adapter"),
    "adapter's settings nested": holds("adapter/adapter_config.json", b"[" * 200_000),
    "adapter's settings broken": holds("adapter/adapter_config.json", b"{"),
    "adapter's settings a list": holds("adapter/adapter_config.json", b"[]"),
    "adapter's settings empty": holds("adapter/adapter_config.json", b"{}"),
    **{f"adapter {name} = {value!r}": adapter(**{name: value}) for name, value in ADAPTER_SETTINGS},
}


def manifest(change: Callable[[Tree], object]) -> Callable[[Path], None]:
    """Another manifest, whose own checksum fits."""

    def rewrite(directory: Path) -> None:
        tree = json.loads((directory / MANIFEST).read_text())
        tree.pop("sha256")
        changed = change(tree) or tree
        write_sealed(directory / MANIFEST, json.dumps(changed, indent=1) + "\n")

    return rewrite


def lists(files: object) -> Callable[[Path], None]:
    return manifest(lambda tree: tree.update(files=files))


UNSEALED: dict[str, Callable[[Path], object]] = {
    "manifest lists no files": lists({}),
    "manifest lists /etc/shadow": lists({"/etc/shadow": "0"}),
    "manifest lists /proc/kcore": lists({"/proc/kcore": "0"}),
    "manifest lists ../../etc/passwd": lists({"../../../etc/passwd": "0"}),
    "manifest lists cascade.json alone": manifest(
        lambda tree: tree.update(files={"cascade.json": tree["files"]["cascade.json"]})
    ),
    "manifest's files are no text": lists({"cascade.json": 5}),
    "manifest's files are a list": lists(["cascade.json"]),
    "manifest names a NUL": lists({"a\0b": "0"}),
    "manifest is a list": manifest(lambda tree: [1]),
    "manifest without files": manifest(lambda tree: void(tree.pop("files"))),
    "manifest has no checksum": holds(MANIFEST, b"{}"),
    "manifest nested": holds(MANIFEST, b"[" * 100_000),
}

CASES: dict[str, tuple[str, Callable[..., object]]] = {
    name: (kind, change)
    for kind, cases in (
        ("json", CODE | OUTSIDE | MEMORY | MALFORMED),
        ("files", CODE_FILES | OUTSIDE_FILES | MEMORY_FILES | MALFORMED_FILES),
        ("unsealed", UNSEALED),
    )
    for name, change in cases.items()
}
# What changes nothing, or only what the answers are.
HARMLESS = {
    "template is /etc/passwd",
    "adapter setting is /etc",
    "adapter maps to a module",
    "adapter names a hub model",
    "adapter peft_type = None",
    "users without age",
    "items without genres",
    "items.title = None",
    f"items.title = {ESCAPES!r}",
    "line {title:}",
    "tokens_per_batch 1",
    "router.extra = 1",
    "crm.transformer = {'heads': 3}",
    "llm.layout = 'paper'",
    "titles of 10**5 characters",
    "a key of 10**7 characters",
    "time_zone = '../../etc/passwd'",  # the pairs have no times
    "users.age = b'x'",
    "answer with a line break",
    "weights are float64",
    "without format",
}


@pytest.fixture(scope="module")
def place(finished, tmp_path_factory) -> Path:
    """A working directory with a cascade that asks for every row, and modules that are evil."""
    place = tmp_path_factory.mktemp("hostile")
    shutil.copytree(finished[0] / "cascade", place / "base")
    tree = json.loads((place / "base" / "cascade.json").read_text())
    tree["router"] |= {"policy": "entropy", "budget": 1.0, "hard": True}
    tree["router"]["rules"]["entropy"] |= {
        "threshold": -1.0,
        "verdict": {"helps": True, "routed": 100, "gain": 1.0, "bound": 1.0},
    }
    tree["crm"]["model"] = "dcnv2"
    (place / "base" / "cascade.json").write_text(json.dumps(tree))
    features = TypeAdapter(Features).validate_python(tree["features"])
    crm = build_crm(CrmConfig.model_validate(tree["crm"]), features, CPU)
    save_file(crm.state_dict(), place / "base" / "crm.safetensors")
    pairs = [f"{1 + i % 40},{1 + i % 49}\n" for i in range(50)]
    (place / "pairs.csv").write_text("user,item\n" + "".join(pairs))

    evil = "open('CANARY', 'w').write('x')\n"
    (place / "evil.py").write_text(evil + "class Model: pass\n")
    llm = Path(tree["llm"]["model"])
    shutil.copytree(llm, place / "evilmodel")
    config = json.loads((llm / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.EvilConfig"}}
    (place / "evilmodel" / "config.json").write_text(json.dumps(config))
    shutil.copytree(llm, place / "eviltokenizer")
    config = json.loads((llm / "tokenizer_config.json").read_text())
    config |= {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}, "tokenizer_class": "Evil"}
    (place / "eviltokenizer" / "tokenizer_config.json").write_text(json.dumps(config))
    for folder in ("evilmodel", "eviltokenizer"):
        (place / folder / "evil.py").write_text(evil)
    os.mkfifo(place / "endless.gguf")
    return place


def make(place: Path, kind: str, change: Callable[..., object]) -> None:
    """The cascade ``place / "made"`` with a change, and checksums that fit."""
    shutil.rmtree(place / "made", ignore_errors=True)
    outside = place / ".made.outside"
    shutil.rmtree(outside) if outside.is_dir() else outside.unlink(missing_ok=True)
    with writing(place / "made", {"kind": "cascade", "key": ""}) as directory:
        shutil.copytree(place / "base", directory, dirs_exist_ok=True)
        (directory / MANIFEST).unlink()
        if kind == "json":
            tree = json.loads((directory / "cascade.json").read_text())
            content = change(tree)
            content = content if isinstance(content, str) else json.dumps(tree)
            (directory / "cascade.json").write_text(content, "utf-8", "surrogateescape")
        elif kind == "files":
            change(directory)
    if kind == "unsealed":
        change(place / "made")


def predict(place: Path) -> Outcome:
    """What became of ``predict``."""
    for name in ("CANARY", "out.csv"):
        (place / name).unlink(missing_ok=True)
    command = ["predict", "made", "pairs.csv", "-o", "out.csv"]
    return call(command, place / "calls" / "call.txt", seconds=SECONDS, directory=place)


def test_hostile_cascade(attack, place):
    make(place, "json", lambda tree: None)
    assert predict(place).kind == "done"
    assert (pl.read_csv(place / "out.csv")["source"] == "blend").all()
    names = list(CASES)
    for name in attack.random.sample(names, attack.times(15, len(names))):
        make(place, *CASES[name])
        found = predict(place)
        lines = [line for line in found.text.splitlines() if line.strip()]
        kind = found.kind
        if (place / "CANARY").exists():
            kind = "code ran"
        elif kind == "refused" and len(lines) > 1:
            kind = "several lines"
        elif kind == "done":
            kind = "harmless" if name in HARMLESS else "answered"
        attack.note(
            kind,
            f"{name}: {found.seconds:.1f} s, {found.memory >> 20} MiB, {found.last_line[:200]}",
            bad=kind not in ("refused", "harmless"),
        )


ODD = (
    NAN, INFINITY, -INFINITY, -1, 0, 1, 1e308, 1e-320, 10**30, 2**31, 2**63, -(2**63), 10**400, 0.5,
    "", "x", "\0", "\u202e", "x" * 5000, "../x", "{title:>9}", "all", True, False, None, [], {},
    [[]], [1, "a"], [1.0, 2.0], {"a": {"b": {}}},
)  # fmt: skip


def leaves(tree: object, place: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Places of all values of a JSON tree, those within others too."""
    parts = tree.items() if isinstance(tree, dict) else enumerate(tree)  # pyright: ignore
    found = []
    for key, value in parts:
        found.append((*place, key))
        if isinstance(value, dict | list):
            found += leaves(value, (*place, key))
    return found


def mutated(content: bytes, random: Random) -> bytes:
    """Bytes with a few of them changed, left out or put in."""
    made = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 5, 20))):
        at = random.randrange(len(made) + 1)
        match random.randrange(5):
            case 0:
                made[at : at + 1] = random.randbytes(1)
            case 1:
                del made[at : at + random.choice((1, 3, 50))]
            case 2:
                made[at:at] = random.randbytes(random.choice((1, 4, 40)))
            case 3:
                made[at : at + 40] = bytes(40)
            case _:
                made = made[:at]
    return bytes(made)


def test_fuzzed_cascade(attack, place, tiny_llm):
    """In process: any value of cascade.json, any bytes of a file."""
    make(place, "json", lambda tree: None)
    whole = {p: p.read_bytes() for p in (place / "made").rglob("*.*") if p.name != MANIFEST}
    whole = {path: content for path, content in whole.items() if path.suffix != ".md"}
    pairs = {"user": ["1", "2", "no one"], "item": ["1", "2", "3"]}
    for number in range(attack.times(120, 5000)):
        path = attack.random.choice(list(whole))
        if attack.random.random() < 0.5:
            path = place / "made" / "cascade.json"
            tree = json.loads(whole[path])
            *steps, last = spot = attack.random.choice(leaves(tree))
            part = tree
            for step in steps:
                part = part[step]
            part[last] = value = attack.random.choice(ODD)
            what, content = f"{spot} = {value!r:.40}", json.dumps(tree).encode()
        else:
            what, content = f"{path.name}, try {number}", mutated(whole[path], attack.random)
        path.write_bytes(content)
        write_manifest(place / "made")
        try:
            cascade = Cascade.load(place / "made", device="cpu")
            cascade.router = replace(cascade.router, budget=0.0, hard=True)
            cascade.predict(pairs)
            if path.parent.name == "adapter":
                load_adapter(load_model(str(tiny_llm), torch.float32, CPU)[0], path.parent)
            attack.note("answered")
        except CorellarecError as error:
            several = "\n" in str(error)
            attack.note("several lines" if several else "refused", f"{what}: {error}", bad=several)
        except Exception as error:
            attack.note("traceback", f"{what}: {error!r:.200}", bad=True)
        path.write_bytes(whole[path])
