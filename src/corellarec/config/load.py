"""Settings from a preset, TOML files and ``--set key=value``, each on top of the one before."""

import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from corellarec.base.errors import ConfigError
from corellarec.base.inputs import DEEPEST, parse_toml, read_toml
from corellarec.config.crm import CRM_MODELS, CrmConfig
from corellarec.config.explain import explain, suggestion
from corellarec.config.schema import Config

NUMBERS = re.compile(r"[-+.\deE\s]+(,[-+.\deE\s]+)+")  # a list without its brackets


def preset_names() -> list[str]:
    """Names that ``--preset`` takes, sorted.

    ``ml-1m/din`` is the preset ``ml-1m`` with DIN and its searched hyper-parameters on top, and
    ``ml-1m`` alone is ``ml-1m/dcnv2``.
    """
    with resources.as_file(resources.files("corellarec.config") / "presets") as folder:
        found = folder.rglob("*.toml")
        return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in found)


def load_config(
    *, preset: str | None = None, files: Iterable[Path] = (), settings: Iterable[str] = ()
) -> Config:
    """Read a preset, TOML files and ``key=value`` settings, each on top of the one before.

    Args:
        preset: One of :func:`preset_names`.
        files: TOML files.
        settings: ``section.key=value`` texts; values are TOML, and bare words are strings.

    Raises:
        ConfigError: If the source is missing or malformed, or a key or value is not allowed.
    """
    tree: dict[str, Any] = {}
    if preset is not None:
        if preset not in preset_names():
            raise ConfigError(
                f"no preset named {preset!r}; there are: {', '.join(preset_names())}"
                + suggestion(preset, preset_names())
            )
        tree = _preset(preset)
    for file in files:
        tree = _stack(tree, read_toml(file))
    settings = list(settings)
    tree = _without_replaced(tree, settings_tree(settings))
    for setting in settings:
        _apply(tree, setting)
    return parse_config(tree)


def parse_config(tree: Mapping[str, Any]) -> Config:
    """Turn a tree of plain values into a :class:`Config`.

    Raises:
        ConfigError: If a key is unknown (with the nearest known key) or a value is not allowed.
    """
    try:
        return Config.model_validate(_with_members(tree))
    except ValidationError as error:
        raise ConfigError("; ".join(explain(detail) for detail in error.errors())) from error


def with_settings(config: Config, settings: Mapping[str, Any]) -> Config:
    """The configuration with values in place of its own, by names such as ``crm.dropout``.

    Raises:
        ConfigError: If a name is unknown or a value is not allowed.
    """
    tree: dict[str, Any] = {}
    for name, value in settings.items():
        *path, last = name.split(".")
        section = tree
        for part in path:
            section = section.setdefault(part, {})
        section[last] = value
    return changed(config, tree)


def changed(config: Config, tree: Mapping[str, Any]) -> Config:
    """The configuration with a tree of settings on top, as a TOML file holds one.

    Raises:
        ConfigError: If a key is unknown or a value is not allowed.
    """
    return parse_config(_stack(config.model_dump(mode="json", exclude_none=True), dict(tree)))


def settings_tree(settings: Iterable[str]) -> dict[str, Any]:
    """The tree of ``section.key=value`` texts.

    Raises:
        ConfigError: If a text is malformed.
    """
    tree: dict[str, Any] = {}
    for setting in settings:
        _apply(tree, setting)
    return tree


def to_toml(config: Config) -> str:
    """The full resolved configuration as TOML, which :func:`load_config` reads back equal."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def _preset(name: str) -> dict[str, Any]:
    """The tree of one of :func:`preset_names`."""
    base, _, model = name.partition("/")
    tree: dict[str, Any] = {}
    for part in (base, f"{base}/{model or 'dcnv2'}"):
        source = resources.files("corellarec.config") / "presets" / f"{part}.toml"
        if source.is_file():
            tree = _stack(tree, parse_toml(source.read_text("utf-8"), f"preset {part}"))
    return tree


def _with_members(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A tree with the settings of members of the CRM in place of their names."""
    crm = tree.get("crm")
    if not isinstance(crm, dict) or not isinstance(crm.get("members"), list | tuple):
        return dict(tree)
    members = [_member(one) if isinstance(one, str) else one for one in crm["members"]]
    return {**tree, "crm": {**crm, "members": members}}


def _member(name: str) -> dict[str, Any]:
    if name in CRM_MODELS:
        return {"crm": {"model": name}}
    if name not in preset_names():
        known = [*CRM_MODELS, *preset_names()]
        raise ConfigError(
            f"crm.members: {name!r} is neither a network ({', '.join(CRM_MODELS)}) nor a preset"
            + suggestion(name, known)
        )
    preset = _preset(name)
    return {section: preset[section] for section in ("crm", "stage1") if section in preset}


def _stack(below: dict[str, Any], layer: dict[str, Any]) -> dict[str, Any]:
    """A tree of settings with a later layer on top."""
    return _merge(_without_replaced(below, layer), layer)


def _without_replaced(below: dict[str, Any], layer: dict[str, Any]) -> dict[str, Any]:
    """A tree without settings that a layer on top replaces by others.

    ``cascade.budget`` and ``cascade.threshold`` exclude each other: the later one wins, and a layer
    that sets both is an error. ``crm.members`` go with the network that they were given beside:
    where the layer names another one, they are its own or none.
    """
    found = {name: dict(value) for name, value in below.items() if isinstance(value, dict)}
    cascade, crm = (_section(layer, name) for name in ("cascade", "crm"))
    for key, other in (("budget", "threshold"), ("threshold", "budget")):
        if key in cascade and other not in cascade:
            found.get("cascade", {}).pop(other, None)
    model = _section(below, "crm").get("model", CrmConfig.model_fields["model"].default)
    if crm.get("model", model) != model:
        found.get("crm", {}).pop("members", None)
    return below | found


def _section(tree: dict[str, Any], name: str) -> dict[str, Any]:
    found = tree.get(name)
    return found if isinstance(found, dict) else {}


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Two trees of settings, where both have one the one above's."""
    sections = {
        key: _merge(below[key], value)
        for key, value in above.items()
        if isinstance(value, dict) and isinstance(below.get(key), dict)
    }
    return below | above | sections


def _apply(tree: dict[str, Any], setting: str) -> None:
    key, separator, text = setting.partition("=")
    if not separator:
        raise ConfigError(f"--set {setting!r}: expected key=value, such as cascade.budget=0.2")
    if NUMBERS.fullmatch(text):
        text = f"[{text}]"
    try:
        value = parse_toml(f"value = {text}", f"--set {setting!r}")["value"]
    except ConfigError:
        value = text
    *path, last = key.strip().split(".")
    if len(path) > DEEPEST:
        raise ConfigError(f"--set {setting!r}: expected section.key=value")
    for part in path:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"--set {setting!r}: {part!r} is a value, not a section")
    tree[last] = value
