"""The look that the reports and the explorer share: style sheets, and the colours of figures."""

import re
from functools import cache
from importlib import resources

COLOUR = re.compile(r"--(\w+): (#[0-9a-f]{6});")


@cache
def sheet(name: str) -> str:
    """The text of a style sheet of this package: ``colours``, ``look`` or ``page``."""
    return (resources.files("corellarec.evaluation") / f"{name}.css").read_text("utf-8")


def shared_look() -> str:
    """What the pages of a report and of the explorer begin with."""
    return sheet("colours") + sheet("look")


@cache
def colours() -> dict[str, str]:
    """Each colour of light pages by its name, such as ``crm``, as ``#rrggbb``."""
    light, _, _ = sheet("colours").partition("@media")
    return dict(COLOUR.findall(light))
