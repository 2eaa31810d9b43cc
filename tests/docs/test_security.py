"""The threat model names tests that there are."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_test_that_is_named_exists():
    page = (ROOT / "docs" / "security.md").read_text("utf-8")
    path, named = None, 0
    for code in re.findall(r"`([^`]+)`", page):
        file, _, function = code.partition("::")
        if not re.search(r"(^|/)test_\w+\.py$", file) and not code.startswith("::"):
            continue
        path = ROOT / "tests" / file if file else path
        assert path.is_file(), f"{code} is not there"
        assert f"def {function}(" in path.read_text("utf-8") if function else True, code
        named += 1
    assert named > 10
