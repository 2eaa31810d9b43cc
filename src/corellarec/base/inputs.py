"""Files that a user names: what they are is looked at before they are opened."""

import stat
import tomllib
from pathlib import Path
from typing import Any

from corellarec.base.errors import ConfigError, DataError

MOST_TOML = 16 << 20  # bytes of a TOML file
DEEPEST = 30  # tables in tables, and lists in lists
KINDS = (
    (stat.S_ISDIR, "is a directory"),
    (stat.S_ISFIFO, "is a pipe"),
    (stat.S_ISSOCK, "is a socket"),
    (stat.S_ISCHR, "is a device"),
    (stat.S_ISBLK, "is a device"),
)


def not_a_file(path: Path) -> str | None:
    """What a path is where it is no regular file, which alone has an end; None where it is one.

    Example:
        >>> not_a_file(Path("/dev/zero"))
        'is a device'
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "is not there"
    except (OSError, ValueError) as error:  # ValueError: a name with the character NUL
        return f"cannot be read ({getattr(error, 'strerror', None) or error})"
    return next((what for is_kind, what in KINDS if is_kind(mode)), None)


def check_file(path: Path) -> None:
    """Refuse what is not a regular file.

    Raises:
        DataError: If it is something else, or not there.
    """
    if what := not_a_file(path):
        raise DataError(f"{path} {what}: give the path of a file")


def read_toml(path: Path) -> dict[str, Any]:
    """The tree that a TOML file holds.

    Raises:
        ConfigError: If it is missing, no regular file, too large, not UTF-8 or not TOML.
    """
    if what := not_a_file(path):
        raise ConfigError(f"{path}: cannot be read: it {what}; give the path of a TOML file")
    try:
        with path.open("rb") as file:
            content = file.read(MOST_TOML + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    if len(content) > MOST_TOML:
        raise ConfigError(f"{path}: has more than {MOST_TOML:,} bytes: it is no file of settings")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    return parse_toml(text.replace("\r\n", "\n"), str(path))


def parse_toml(text: str, place: str) -> dict[str, Any]:
    """The tree that a TOML text holds.

    Args:
        text: The text.
        place: What messages call it.

    Raises:
        ConfigError: If it is not TOML, or too deep.
    """
    try:
        tree = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # not TOML, or a number of 5,000 digits
        raise ConfigError(f"{place}: not valid TOML: {error}") from error
    level: list[Any] = [tree]
    for _ in range(DEEPEST):
        inner = [part.values() if isinstance(part, dict) else part for part in level]
        level = [value for part in inner for value in part if isinstance(value, dict | list)]
    if level:
        raise ConfigError(f"{place}: more than {DEEPEST} tables or lists in one another")
    return tree
