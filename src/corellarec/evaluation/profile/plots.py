"""The figures of a log's profile, as SVG text; empty where there is nothing to show."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, datestr2num
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from corellarec.evaluation.plots import COLOURS, INK, PANEL, PAPER, as_svg, open_canvas, set_title
from corellarec.evaluation.profile.parts import Counted, Popularity, Profile

WIDTHS = {"day": 1, "week": 7, "month": 30}  # of a bar, in days
CUTS = {"validation": (0, (4, 2)), "test": (0, (1, 1.5))}


def _dates(canvas: Canvas, axis: Axes, found: Profile) -> None:
    """Dates below, and where validation and test begin."""
    locator = AutoDateLocator(minticks=3, maxticks=6)
    axis.xaxis.set_major_locator(locator)
    axis.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    for (name, style), cut in zip(CUTS.items(), found.cuts, strict=True):
        axis.axvline(float(datestr2num(cut)), color=INK, lw=1.4, ls=style, label=f"{name} begins")
    canvas.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)


def rows_figure(found: Profile) -> str:
    """Rows over time."""
    days = [float(datestr2num(one.name)) for one in found.periods]
    with open_canvas(PANEL, 3.0) as canvas:
        axis = canvas.subplots()
        axis.bar(days, [one.rows for one in found.periods], WIDTHS[found.unit], align="edge",
                 color=COLOURS["crm"])  # fmt: skip
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axis.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        _dates(canvas, axis, found)
        set_title(axis, f"Rows by {found.unit}")
        return as_svg(canvas, f"Rows by {found.unit}")


def rates_figure(found: Profile) -> str:
    """The label rate over time, of periods with enough rows to say something."""
    few = max(10, 0.001 * found.rows)
    known = [one for one in found.periods if one.rows >= few]
    days = [float(datestr2num(one.name)) + WIDTHS[found.unit] / 2 for one in known]
    with open_canvas(PANEL, 3.0) as canvas:
        axis = canvas.subplots()
        axis.plot(days, [one.rate for one in known], "o-", ms=3, lw=1.6, color=COLOURS["cascade"])
        axis.axhline(found.positives / found.rows, color=COLOURS["random"], lw=1.2)
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axis.yaxis.set_major_locator(MaxNLocator(5))
        _dates(canvas, axis, found)
        set_title(axis, f"Share of positive rows by {found.unit}")
        return as_svg(canvas, f"Share of positive rows by {found.unit}")


def ratings_figure(ratings: Sequence[Counted]) -> str:
    """Rows by rating, the positive part in another colour."""
    if not ratings:
        return ""
    names, places = [one.name for one in ratings], range(len(ratings))
    negative = [one.rows - one.positives for one in ratings]
    with open_canvas(PANEL, 3.0) as canvas:
        axis = canvas.subplots()
        axis.bar(places, negative, color=COLOURS["random"], label="negative")
        axis.bar(places, [one.positives for one in ratings], bottom=negative,
                 color=COLOURS["cascade"], label="positive")  # fmt: skip
        axis.set_xticks(places, names)
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axis.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.grid(visible=False, axis="x")
        axis.legend(frameon=False, fontsize=9)
        set_title(axis, "Rows by rating")
        return as_svg(canvas, "Rows by rating, and which are positive")


def segments_figure(found: Profile) -> str:
    """The label rate of every segment."""
    places, at, ticks, values, heads = [], 0.0, [], [], []
    for title, groups in found.segments.items():
        known = [one for one in groups if one.rows]
        if not known:
            continue
        at += 1.6
        heads.append((title, at - 0.1))
        for one in known:
            at += 1
            places.append(at)
            ticks.append(f"{one.name}  ({one.rows:,})")
            values.append(one.rate)
    with open_canvas(PANEL, 0.25 * at + 1.0) as canvas:
        axis = canvas.subplots()
        axis.barh(places, values, 0.7, color=COLOURS["cascade"])
        axis.axvline(found.positives / found.rows, color=INK, lw=1.4, ls=(0, (4, 2)))
        axis.set_yticks(places, ticks)
        axis.tick_params(axis="y", labelsize=8.5)
        for title, height in heads:
            axis.annotate(title, (0, height), xycoords=("axes fraction", "data"), fontsize=8.5,
                          fontweight="bold", ha="left", va="center",
                          xytext=(3, 0), textcoords="offset points",
                          bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1.5})  # fmt: skip
        axis.set_ylim(at + 1, 0.6)
        axis.grid(visible=False, axis="y")
        axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axis.xaxis.set_major_locator(MaxNLocator(5))
        set_title(axis, "Share of positive rows")
        return as_svg(canvas, "Share of positive rows in each segment")


def popularity_figure(items: Popularity, users: Popularity) -> str:
    """Share of rows by share of items and of users, the most frequent first."""
    with open_canvas(PANEL, 3.4) as canvas:
        axis = canvas.subplots()
        for one, name, colour in ((items, "items", "crm"), (users, "users", "llm")):
            axis.plot(one.share, one.rows, lw=2, color=COLOURS[colour],
                      label=f"{name}, Gini {one.gini:.2f}")  # fmt: skip
        axis.plot([0, 1], [0, 1], color=COLOURS["random"], lw=1.2, ls=(0, (4, 2)))
        axis.xaxis.set_major_formatter(PercentFormatter(1.0))
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))
        axis.set_xlabel("share of items or users, most rows first")
        axis.set_ylabel("share of rows")
        axis.legend(frameon=False, fontsize=9, loc="lower right")
        set_title(axis, "Popularity")
        return as_svg(canvas, "Share of rows by share of items and of users")


def histories_figure(histories: Sequence[tuple[str, int, int]]) -> str:
    """Users by rows, and later rows by the history before them, as shares."""
    names, users, rows = zip(*histories, strict=True)
    with open_canvas(PANEL, 3.4) as canvas:
        axis = canvas.subplots()
        for shift, counts, name, colour in (
            (-0.2, users, "users, by their rows", "llm"),
            (0.2, rows, "validation and test rows, by history", "crm"),
        ):
            total = max(1, sum(counts))
            axis.bar([place + shift for place in range(len(names))],
                     [count / total for count in counts], 0.4, color=COLOURS[colour],
                     label=name)  # fmt: skip
        axis.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8.5)
        axis.grid(visible=False, axis="x")
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axis.margins(y=0.25)
        axis.legend(frameon=False, fontsize=8.5, loc="upper left")
        set_title(axis, "Lengths of histories")
        return as_svg(canvas, "Lengths of histories of users and of later rows")


def cold_figure(found: Profile) -> str:
    """Shares of rows of cold users and items, by split."""
    later = found.splits[1:]
    with open_canvas(PANEL, 2.4) as canvas:
        axis = canvas.subplots()
        for shift, name, colour in ((-0.2, "cold_users", "llm"), (0.2, "cold_items", "crm")):
            bars = axis.barh([place + shift for place in range(len(later))],
                             [getattr(one, name) for one in later], 0.38, color=COLOURS[colour],
                             label=f"rows of {name.replace('_', ' ')}")  # fmt: skip
            axis.bar_label(bars, [f"{getattr(one, name):.1%}" for one in later], padding=3,
                           fontsize=9)  # fmt: skip
        axis.set_yticks(range(len(later)), [one.name for one in later])
        axis.invert_yaxis()
        axis.set_xlim(0, 1.15)
        axis.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axis.grid(visible=False, axis="y")
        axis.xaxis.set_major_formatter(PercentFormatter(1.0))
        canvas.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
        set_title(axis, "Cold rows")
        return as_svg(canvas, "Rows of users and items without training rows, by split")


def tokens_figure(counts: Sequence[tuple[int, int]]) -> str:
    """Titles by their number of tokens."""
    if not counts:
        return ""
    with open_canvas(PANEL, 2.8) as canvas:
        axis = canvas.subplots()
        axis.bar([tokens for tokens, _ in counts], [n for _, n in counts], 0.9,
                 color=COLOURS["llm"])  # fmt: skip
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axis.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.set_xlabel("tokens")
        set_title(axis, "Titles by length")
        return as_svg(canvas, "Titles by their number of tokens")
