"""Keys of callers: made once, kept as hashes, compared in constant time."""

import hashlib
import hmac
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, TypeAdapter, ValidationError

from corellarec.base.artifacts import whole
from corellarec.base.errors import ConfigError

Scope = Literal["score", "events", "explore", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
PREFIX = "clr_"


@dataclass(frozen=True)
class Key:
    """A caller's key.

    Args:
        name: Who has it; in logs and metrics.
        sha256: Of the key, which is 256 random bits, so that a plain hash cannot be inverted.
        scopes: What it allows.
    """

    name: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: tuple[Scope, ...]


_KEYS = TypeAdapter(list[Key])


def read_keys(path: Path) -> list[Key]:
    """The keys of a file; none where it is not there.

    Raises:
        ConfigError: If it is no file of keys.
    """
    if not path.exists():
        return []
    try:
        return _KEYS.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigError(
            f"{path}: is no file of keys: delete it, and make keys by `corellarec serve-key`"
        ) from error


def make_key(path: Path, name: str, scopes: Sequence[Scope]) -> str:
    """Make a key, keep its hash in a file, and return it; another key of that name is replaced.

    Raises:
        ConfigError: If there is no such scope.
    """
    for scope in scopes:
        if scope not in SCOPES:
            raise ConfigError(f"no scope {scope!r}; there are: {', '.join(SCOPES)}")
    key = PREFIX + secrets.token_urlsafe(32)
    kept = [one for one in read_keys(path) if one.name != name]
    kept.append(Key(name, hashlib.sha256(key.encode()).hexdigest(), tuple(scopes)))
    with whole(path) as unfinished:
        unfinished.touch(mode=0o600)
        unfinished.write_text(json.dumps(_KEYS.dump_python(kept, mode="json"), indent=1), "utf-8")
    return key


def find_key(keys: Sequence[Key], given: str) -> Key | None:
    """The key that a caller gives, by comparing it with all in constant time."""
    digest = hashlib.sha256(given.encode("utf-8", "surrogateescape")).hexdigest()
    found = None
    for key in keys:
        if hmac.compare_digest(key.sha256, digest):
            found = key
    return found
