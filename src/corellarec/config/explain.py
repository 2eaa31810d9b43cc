"""One line for each setting that is wrong, with the nearest one that is right."""

import difflib
import re
from types import UnionType
from typing import Any, Union, get_args, get_origin

from corellarec.config.schema import Config
from corellarec.config.section import Section

SHOWN = 100  # characters of a value in a message
_IS_KIND = re.compile(r"[\[(]")  # pydantic's name of one of the kinds that a setting may have


def explain(detail: Any, settings: type[Section] = Config) -> str:  # noqa: ANN401 (pydantic's)
    """One error of pydantic, of ``settings``, as a text that names the setting and the remedy."""
    place = ".".join(str(part) for part in detail["loc"] if not _IS_KIND.search(str(part)))
    if detail["type"] == "extra_forbidden":
        known = known_keys(settings)
        siblings = [key for key in known if key.rpartition(".")[0] == place.rpartition(".")[0]]
        return f"unknown setting {place!r}" + suggestion(place, known, siblings)
    if detail["type"] == "model_type":
        return f"{place}: is a section of settings, found the value {detail['input']!r}"
    if detail["type"] == "tuple_type":
        wanted = 'a list in brackets, such as [0.8, 0.1, 0.1] or ["a", "b"]'
        return f"{place}: {wanted}, found {shorten(detail['input'])}"
    if detail["type"] == "missing" and isinstance(detail["loc"][-1], int):
        whole = place.rpartition(".")[0]
        return f"{whole}: {len(detail['input'])} values are too few, found {detail['input']}"
    message = detail["msg"].removeprefix("Value error, ")
    shown = "ctx" in detail and not isinstance(detail["input"], dict)
    return f"{place}: {message}" + (f" (found {shorten(detail['input'])})" if shown else "")


def shorten(value: object) -> str:
    """A value as an error shows it."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."


def suggestion(word: str, known: list[str], siblings: list[str] | None = None) -> str:
    """``: did you mean ...?`` with the nearest of ``known``, or a list of ``siblings``."""
    nearest = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if not nearest:  # a right key in the wrong section
        last = word.rpartition(".")[2]
        nearest = [key for key in known if key.rpartition(".")[2] == last][:1]
    if nearest:
        return f": did you mean {nearest[0]!r}?"
    return f"; there are: {', '.join(siblings)}" if siblings else ""


def known_keys(section: type[Section], prefix: str = "") -> list[str]:
    """Names of all settings of a section, such as ``crm.dropout``."""
    keys = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        kinds = (
            get_args(field.annotation)
            if get_origin(field.annotation) in (Union, UnionType)
            else (field.annotation,)
        )
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, Section):
                keys += known_keys(kind, f"{prefix}{name}.")
    return keys
