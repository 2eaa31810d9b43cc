"""The reference of settings, commands and public Python names, as Markdown made from the code."""

import json
import re
from collections.abc import Iterable, Iterator
from importlib import resources
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

import corellarec
from corellarec.cli.main import app
from corellarec.config import Config, Section, preset_names
from corellarec.config.section import Range

NAMES = {bool: "`true` or `false`", int: "integer", float: "number", str: "text", Any: "any value"}


def settings() -> str:
    """Every section of the configuration with its settings, then the presets."""
    parts = list(_section(Config, ""))
    parts.append("## Presets\n\nWhat each preset changes; all other settings keep their defaults.")
    for name in preset_names():
        if "/" not in name:
            source = resources.files("corellarec.config") / "presets" / f"{name}.toml"
            parts.append(f"### {name}\n\n```toml\n{source.read_text('utf-8').strip()}\n```")
    return "\n\n".join(parts)


def _section(section: type[Section], name: str) -> Iterator[str]:
    """A section's heading and table, then the sections in it."""
    title = f"{'#' * (2 + name.count('.'))} {name or 'Top level'}"
    yield f"{title}\n\n{_paragraph(section.__doc__)}"
    rows, inner = [], []
    for key, field in section.model_fields.items():
        place = f"{name}.{key}" if name else key
        if part := _section_of(field.annotation):
            inner.append((part, place))
        else:
            rows.append((f"`{place}`", _kind(field.annotation, field.metadata), _default(field),
                         _description(section, key)))  # fmt: skip
    if rows:
        yield _table(("setting", "value", "default", "meaning"), rows)
    for part, place in inner:
        yield from _section(part, place)


def _section_of(annotation: Any) -> type[Section] | None:  # noqa: ANN401 (any type)
    """The section that a field holds, or None where it holds a value, or a list of sections."""
    if get_origin(annotation) is tuple:
        return None
    kinds = get_args(annotation) or (annotation,)
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, Section)), None)


def _description(section: type[Section], key: str) -> str:
    """The docstring under the field, or under the field of a base class that it overrides."""
    for owner in section.__mro__:
        field = owner.model_fields.get(key) if issubclass(owner, Section) else None
        if field and field.description:
            return _paragraph(field.description)
    raise ValueError(f"{section.__name__}.{key} has no docstring: write one under the field")


def _kind(annotation: Any, metadata: Iterable[Any] = ()) -> str:  # noqa: ANN401 (any type)
    """What a setting may hold, in words."""
    arguments, origin = get_args(annotation), get_origin(annotation)
    if origin is Annotated:
        return _kind(arguments[0], annotation.__metadata__)
    if origin is Literal:
        return " or ".join(f"`{json.dumps(value)}`" for value in arguments)
    if origin in (Union, UnionType):
        return " or ".join(_kind(kind) for kind in arguments if kind is not NoneType)
    if origin is tuple:
        length = "" if Ellipsis in arguments else f" of {len(arguments)}"
        return f"list{length}, each: {_kind(arguments[0])}"
    if origin is dict or (isinstance(annotation, type) and issubclass(annotation, Section)):
        return "table"
    bounds = [
        str(bound)
        for entry in metadata
        for bound in (entry.metadata if isinstance(entry, FieldInfo) else [entry])
        if isinstance(bound, Range)
    ]
    return ", ".join([NAMES[annotation], *bounds])


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    return "unset" if field.default is None else f"`{json.dumps(field.default)}`"


def commands() -> str:
    """Every command of the command line with its arguments and options."""
    return "\n\n".join(_command(typer.main.get_command(app), "corellarec"))


def _command(command: Any, name: str) -> Iterator[str]:  # noqa: ANN401 (typer's or click's)
    context = command.make_context(name, [], resilient_parsing=True)
    if inner := getattr(command, "commands", None):
        for word, part in inner.items():
            yield from _command(part, f"{name} {word}")
        return
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    yield f"## {name}\n\n```\n{usage}\n```\n\n{(command.help or '').strip()}"
    rows = []
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record and parameter.name != "help":
            name_and_value = re.sub(r"list\[(\w+)\]", r"\1", record[0].strip())
            rows.append((f"`{name_and_value}`", _paragraph(record[1])))
    yield _table(("argument or option", "meaning"), rows)


def python() -> str:
    """The public names of ``corellarec``, for mkdocstrings to document."""
    public = [getattr(corellarec, name) for name in getattr(corellarec, "__all__", ())]
    return "\n\n".join(
        f"::: {one.__module__}.{one.__qualname__}" for one in public if hasattr(one, "__qualname__")
    )


def _paragraph(text: str | None) -> str:
    return " ".join((text or "").split())


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    """The text with bars escaped, but for those in code, which separate nothing."""
    return re.sub(r"(`+).+?\1|\|", lambda found: found[0] if found[1] else r"\|", text)
