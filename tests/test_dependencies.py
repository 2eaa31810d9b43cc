"""What the program imports is what it asks for."""

import ast
import importlib.metadata as metadata
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

import corellarec as cr

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
OF_DEVELOPERS = {"dev", "docs", "notebook"}


def imported():
    """Top-level modules that the program imports, its own and Python's left out."""
    found = set()
    for path in Path(cr.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {one.name.partition(".")[0] for one in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"corellarec", "_typeshed"}


def installed_by(requirements):
    """Distributions that requirements bring, their own requirements included."""
    found, left = set(), [Requirement(one) for one in requirements]
    while left:
        one = left.pop()
        name = one.name.lower().replace("_", "-")
        if name in found or (one.marker and not one.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        try:
            left += [Requirement(text) for text in metadata.requires(name) or []]
        except metadata.PackageNotFoundError:
            found.discard(name)
    return found


def test_every_import_is_of_a_declared_dependency():
    project = tomllib.loads(PROJECT.read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"]]
    asked += [one for name, some in extras.items() if name not in OF_DEVELOPERS for one in some]
    brought = installed_by(asked)
    of = metadata.packages_distributions()
    missing = {
        name
        for name in imported()
        if not {one.lower().replace("_", "-") for one in of.get(name, [])} & brought
    }
    assert not missing
