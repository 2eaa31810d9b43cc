"""A ranking's figures as one HTML page."""

from corellarec.evaluation.grids import Cell, Grid, grid_of
from corellarec.evaluation.page import Card, render_page
from corellarec.evaluation.parts import Figure
from corellarec.evaluation.ranking.results import Ranking
from corellarec.evaluation.ranking.tables import OTHERS, group_heads, in_words, sentences
from corellarec.evaluation.report import Section
from corellarec.evaluation.text import interval, number, percent, signed, signed_interval

COLOURS = {"crm": "crm", "cascade": "cascade"}


def render(found: Ranking) -> str:
    """The page; it needs no other file and no network."""
    first, last = found.k[0], found.k[-1]
    against = found.row(found.reference).name
    cards = [
        Card(row.name, number(row.metrics[f"ndcg@{first}"].value), f"NDCG@{first}",
             COLOURS.get(row.key, ""))
        for row in found.table if row.kind != "control"
    ]  # fmt: skip
    differences = f"Differences from {against} for the same users, with 95 % intervals."
    return render_page(
        "What ranks best?",
        found.run,
        f"{in_words(found)}.",
        cards,
        [
            Section("Re-ranking, and what is left out", sentences=tuple(sentences(found))),
            Section(
                "All users",
                differences,
                grids=(_compared(found, f"ndcg@{first}", f"NDCG@{first}"),
                       _compared(found, f"recall@{last}", f"Recall@{last}")),
                details=(_others(found, first),),
            ),
            Section(
                "Groups of users",
                f"NDCG@{first}, below it differences from {against}: users seen in training and "
                "others, and by rows of their history.",
                grids=_groups(found),
            ),
        ],
    )  # fmt: skip


def _value(figure: Figure) -> Cell:
    return Cell(number(figure.value), interval(figure))


def _gap(figure: Figure) -> Cell:
    return Cell(signed(figure.value), signed_interval(figure))


def _compared(found: Ranking, metric: str, title: str) -> Grid:
    rows = [
        [
            row.name,
            percent(row.asked, 0),
            _value(row.metrics[metric]),
            "" if row.key == found.reference else _gap(row.over_reference[metric]),
        ]
        for row in found.table
    ]
    return grid_of(("", "lists re-ranked", title, "difference"), rows)


def _others(found: Ranking, k: int) -> Grid:
    rows = [
        [
            row.name,
            *(_value(row.metrics[f"{name}@{k}"]) for name in OTHERS),
            number(row.coverage[k]),
            f"{row.metrics[f'novelty@{k}'].value:.1f} bits",
        ]
        for row in found.table
    ]
    heads = [f"{name}@{k}" for name in OTHERS.values()]
    return grid_of(("", *heads, f"coverage@{k}", f"novelty@{k}"), rows)


def _groups(found: Ranking) -> tuple[Grid, ...]:
    if not found.groups:
        return ()
    head = ("", *group_heads(found))
    values = [
        [row.name, *(_value(group.figures[row.key]) for group in found.groups)]
        for row in found.table
    ]
    gaps = [
        [row.name, *(_gap(group.over_reference[row.key]) for group in found.groups)]
        for row in found.table
        if row.key != found.reference
    ]
    return grid_of(head, values), grid_of(head, gaps)
