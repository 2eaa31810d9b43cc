"""Charts as SVG in the page: lines, and bars of probabilities."""

from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup, escape

from corellarec.base.metrics import Floats
from corellarec.serve.explore.validation import Spread
from corellarec.serve.explore.words import number, percent

WIDTH, HEIGHT, LEFT, BOTTOM = 640, 220, 64, 28


def line_chart(
    title: str,
    x: Sequence[float] | Floats,
    lines: Mapping[str, tuple[str, Sequence[float] | Floats]],
    ends: tuple[str, str],
    digits: int,
    mark: float | None = None,
    floor: float | None = None,
) -> Markup:
    """Lines over one axis.

    Args:
        title: What a reader who does not see it is told.
        x: ``(n,)`` ascending.
        lines: By name, their class in the style sheet and ``(n,)`` values.
        ends: Words below both ends of the axis.
        digits: Of the values on the upright axis.
        mark: Where an upright line is drawn.
        floor: Value at the foot; by default a little below the least one.
    """
    values = np.concatenate([np.asarray(y, float) for _, y in lines.values()])
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    pad = 0.08 * (high - low) or 0.5
    ticks = np.linspace(low if floor is None else floor, high, 3)
    low, high = (low - pad if floor is None else floor), high + pad
    first, last = float(x[0]), float(x[-1])

    def across(value: float) -> float:
        return LEFT + (WIDTH - LEFT - 8) * (value - first) / ((last - first) or 1.0)

    def up(value: float) -> float:
        return (HEIGHT - BOTTOM) * (1 - (value - low) / (high - low))

    size = f'viewBox="0 0 {WIDTH} {HEIGHT}"'
    parts = [f'<svg class="chart" {size} role="img" aria-label="{escape(title)}">']
    for value in ticks:
        y = up(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - 8}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(value, digits)}</text>'
        )
    for place, (text, anchor) in enumerate(zip(ends, ("start", "end"), strict=True)):
        at = (LEFT, WIDTH - 8)[place]
        where = f'x="{at}" y="{HEIGHT - 8}" text-anchor="{anchor}"'
        parts.append(f"<text {where}>{escape(text)}</text>")
    if mark is not None:
        at = across(mark)
        parts.append(
            f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="{HEIGHT - BOTTOM}"/>'
        )
    for kind, y in lines.values():
        points = " ".join(
            f"{across(float(a)):.1f},{up(float(b)):.1f}" for a, b in zip(x, y, strict=True)
        )
        parts.append(f'<polyline class="{kind}" points="{points}"/>')
    keys = "".join(
        f'<span class="key {kind}">{escape(name)}</span> ' for name, (kind, _) in lines.items()
    )
    keys = f'<p class="keys">{escape(title)}: {keys}</p>'
    return Markup("".join(parts) + f"</svg>{keys}")


def bar(p: float, kind: str, name: str, spread: Spread | None) -> Markup:
    """A probability from 0 to 1, with how sure it is.

    Args:
        p: The probability.
        kind: Its class in the style sheet.
        name: Whose it is.
        spread: Of validation rows with like probabilities, where there are some.
    """
    said = f"{name}: {number(p, 3)}"
    band = ""
    if spread is not None:
        said += (
            f"; of the {spread.rows} validation rows nearest to it "
            f"{percent(spread.low)} to {percent(spread.high)} were positive"
        )
        a, b = 100 * spread.low, 100 * spread.high
        band = (
            f'<line class="band" x1="{a:.1f}" x2="{b:.1f}" y1="6" y2="6"/>'
            f'<line class="band" x1="{a:.1f}" x2="{a:.1f}" y1="3" y2="9"/>'
            f'<line class="band" x1="{b:.1f}" x2="{b:.1f}" y1="3" y2="9"/>'
        )
    return Markup(
        f'<svg class="bar {kind}" viewBox="0 0 100 12" role="img" aria-label="{escape(said)}">'
        f"<title>{escape(said)}</title>"
        f'<rect class="track" width="100" height="12"/>'
        f'<rect class="fill" width="{100 * p:.2f}" height="12"/>{band}</svg> {number(p, 3)}'
    )
