"""A log's profile as one HTML page, and as tables for a terminal."""

from functools import partial

from rich.console import Group

from corellarec.evaluation.grids import Grid, grid_of
from corellarec.evaluation.page import Card, render_page
from corellarec.evaluation.profile import plots
from corellarec.evaluation.profile.parts import Profile
from corellarec.evaluation.report import Section
from corellarec.evaluation.terminal import plain_table
from corellarec.evaluation.text import DASH, percent

SPLIT_HEAD = ("split", "rows", "users", "positive", "cold users", "cold items", "first", "last")


def render(found: Profile) -> str:
    """The page; it needs no other file and no network."""
    test = found.splits[-1]
    cards = [
        Card("rows", f"{found.rows:,}", f"of {found.users:,} users"),
        Card("items", f"{found.items:,}", f"{found.untitled:,} without a title"),
        Card("positive", percent(found.positives / found.rows), "of all rows", "cascade"),
        Card("cold users", percent(test.cold_users), "of the test rows", "llm"),
        Card("cold items", percent(test.cold_items), "of the test rows", "crm"),
    ]
    first, last = found.splits[0].first[:10], found.splits[-1].last[:10]
    data = f"{found.name} from {first} to {last}"
    return render_page("What is in the log?", data, _lead(found), cards, _sections(found))


def _lead(found: Profile) -> str:
    half = next(s for s, rows in zip(found.of_items.share, found.of_items.rows, strict=True)
                if rows >= 0.5)  # fmt: skip
    return (
        f"A user has {found.of_users.median:,.0f} rows (median), an item "
        f"{found.of_items.median:,.0f}; {percent(half)} of the items have half of all rows. "
        "Nothing was trained for this page."
    )


def _sections(found: Profile) -> list[Section]:
    warnings = found.warnings or ("Nothing looks wrong.",)
    return [
        Section("Warnings", sentences=tuple(warnings)),
        Section(
            "Over time",
            "Dashed lines: where validation and test begin. A label rate that drifts makes "
            "validation unlike test. Of the rates, periods with fewer rows than 10, or than a "
            "thousandth of the log, are left out.",
            figures=(partial(plots.rows_figure, found), partial(plots.rates_figure, found)),
        ),
        Section(
            "Splits and cold rows",
            "Cold: without a row in training. What a CRM knows of a cold user or item are its "
            "features alone; a language model reads its title and history.",
            figures=(partial(plots.cold_figure, found),),
            grids=(grid_of(SPLIT_HEAD, split_rows(found)),),
        ),
        Section(
            "Labels",
            "Dashed line: the share of all rows. Segments of the item count all rows, in about "
            "equal quarters by the item's rows.",
            figures=(
                partial(plots.segments_figure, found),
                partial(plots.ratings_figure, found.ratings),
            ),
            details=(_segments(found),),
        ),
        Section(
            "Popularity and histories",
            "A Gini coefficient of 0 is the same number of rows for all, near 1 nearly all rows "
            "for a few. A history is what the log holds of the user before a row.",
            figures=(
                partial(plots.popularity_figure, found.of_items, found.of_users),
                partial(plots.histories_figure, found.histories),
            ),
        ),
        Section(
            "Features",
            "Shares are of users, or of items; a list counts each of its values.",
            grids=(_features(found),) if found.features else (),
            sentences=() if found.features else ("Users and items have no features.",),
        ),
        _text(found),
    ]


def split_rows(found: Profile) -> list[list[str]]:
    """A line of text for each split, under ``SPLIT_HEAD``."""
    return [
        [
            one.name,
            f"{one.rows:,}",
            f"{one.users:,}",
            percent(one.positives / one.rows),
            percent(one.cold_users),
            percent(one.cold_items),
            one.first[:10],
            one.last[:10],
        ]
        for one in found.splits
    ]


def _segments(found: Profile) -> Grid:
    rows = [
        [f"{title}: {one.name}", f"{one.rows:,}", percent(one.rate)]
        for title, groups in found.segments.items()
        for one in groups
    ]
    return grid_of(("segment", "rows", "positive"), rows)


def _features(found: Profile) -> Grid:
    rows = [
        [one.name, one.side, one.kind, percent(one.missing), f"{one.distinct:,}", one.top or DASH]
        for one in found.features
    ]
    return grid_of(
        ("feature", "of", "kind", "missing", "distinct", "most frequent, or range"), rows
    )


def _text(found: Profile) -> Section:
    title = "What the language model reads"
    text = found.text
    if text is None:
        return Section(title, sentences=(f"Not counted: {found.no_text}",))
    return Section(
        title,
        f"{text.model}, layout {text.layout}, template {text.template}. In the stream layout rows "
        "of a user share what is before them. Tokens for a row are the mean over up to 20,000 rows "
        f"of the split. Times are tokens over {text.tokens_per_second:,.0f} tokens/s, which was "
        "not measured here (--tokens-per-second): on two cores SmolLM2-135M reads 1,800 tokens/s "
        "in scoring, and 750 to 1,170 in tuning; other models and machines have other rates.",
        figures=(partial(plots.tokens_figure, text.title_tokens),),
        grids=(grid_of(COST_HEAD, cost_rows(found)),),
    )


COST_HEAD = ("split", "rows", "tokens for a row", "tokens", "time to read it once")


def cost_rows(found: Profile) -> list[list[str]]:
    """A line of text for each split, under ``COST_HEAD``; none where tokens are not known."""
    if found.text is None:
        return []
    rows = []
    for split in found.splits:
        per_row = found.text.tokens_per_row[split.name]
        tokens = per_row * split.rows
        rows.append([split.name, f"{split.rows:,}", f"{per_row:.1f}", f"{tokens:,.0f}",
                     _duration(tokens / found.text.tokens_per_second)])  # fmt: skip
    return rows


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} s"


def tables(found: Profile) -> Group:
    """The profile for a terminal of 80 columns or more."""
    first, last = found.splits[0].first[:10], found.splits[-1].last[:10]
    title = f"{found.name}: {found.rows:,} rows, {first} to {last}"
    splits = plain_table(title, SPLIT_HEAD[:6])
    for row in split_rows(found):
        splits.add_row(*row[:6])
    spread = plain_table("", ["", "count", "median rows", "most rows", "Gini"])
    for name, one in (("users", found.of_users), ("items", found.of_items)):
        spread.add_row(name, f"{one.entities:,}", f"{one.median:,.0f}", f"{one.largest:,}",
                       f"{one.gini:.2f}")  # fmt: skip
    parts = [splits, "", spread]
    if found.features:
        features = plain_table("", ["feature", "of", "kind", "missing", "distinct"])
        for one in found.features:
            features.add_row(one.name, one.side, one.kind, percent(one.missing),
                             f"{one.distinct:,}")  # fmt: skip
        parts += ["", features]
    if text := found.text:
        cost = plain_table(f"{text.model} reads, at {text.tokens_per_second:,.0f} tokens/s",
                      ["", "tokens for a row", "tokens", "time"])  # fmt: skip
        for row in cost_rows(found):
            cost.add_row(row[0], *row[2:])
        parts += ["", cost]
    else:
        parts += ["", f"tokens not counted: {found.no_text}"]
    return Group(*parts)
