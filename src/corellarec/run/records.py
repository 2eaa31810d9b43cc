"""What a run's directory says of itself: its configuration, and its finished steps."""

import shutil
from pathlib import Path
from typing import Any

from corellarec.base.artifacts import MANIFEST, read_manifest, read_sealed, write_sealed
from corellarec.base.errors import ArtifactError
from corellarec.base.lock import locked
from corellarec.config import Config, load_config, to_toml

CONFIG = "config.toml"
LOCK = ".lock"


def read_run_config(directory: Path) -> Config:
    """The configuration a run was made with.

    Raises:
        ArtifactError: If the directory is not that of a run, or the file has changed since.
    """
    path = directory / CONFIG
    if not path.is_file():
        raise ArtifactError(
            f"{directory} is no run (it has no config.toml): `corellarec run` makes one"
        )
    read_sealed(path, "put the file back as it was, or make the run again with --overwrite")
    return load_config(files=[path])


def write_run_config(directory: Path, config: Config) -> None:
    """Record the configuration a run is made with."""
    write_sealed(directory / CONFIG, to_toml(config))


def read_step(directory: Path, key: str) -> dict[str, Any] | None:
    """The manifest of a finished step with this key; None if it is not there.

    Raises:
        ArtifactError: If it is there but damaged.
    """
    if not (directory / MANIFEST).exists():
        return None
    facts = read_manifest(directory)
    return facts if facts.get("key") == key else None


def finished_step(directory: Path, key: str) -> dict[str, Any]:
    """The manifest of a finished step with this key.

    Raises:
        ArtifactError: If it is missing or damaged, or another run's.
    """
    facts = read_step(directory, key)
    if facts is None:
        found = "was made with other settings or data" if directory.exists() else "is not there"
        raise ArtifactError(f"{directory} {found}: run the command that makes it again")
    return facts


def difference(before: Config, after: Config) -> str:
    """The first few settings that differ, as text; empty where none does."""

    def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
        leaves = {}
        for name, value in tree.items():
            if isinstance(value, dict):
                leaves |= flat(value, f"{prefix}{name}.")
            else:
                leaves[prefix + name] = value
        return leaves

    old, new = flat(before.model_dump(mode="json")), flat(after.model_dump(mode="json"))
    changed = [
        f"{name} was {old.get(name)!r}, is {new.get(name)!r}"
        for name in old | new
        if old.get(name) != new.get(name)
    ]
    return "; ".join(changed[:3]) + (" ..." if len(changed) > 3 else "")


def remove_run(directory: Path) -> None:
    """Delete a run's directory, damaged or not.

    Raises:
        ArtifactError: If it is the directory of something else.
        LockedError: If a process works there.
    """
    if directory.exists():
        if not (directory / CONFIG).is_file():
            raise ArtifactError(f"{directory} is no run (it has no {CONFIG}): it is not deleted")
        with locked(directory / LOCK, f"the run in {directory}"):
            shutil.rmtree(directory)
