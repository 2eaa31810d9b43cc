"""The report of an evaluation: one HTML page, or Markdown without its figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import jinja2

from corellarec.evaluation.grids import Cell, Grid
from corellarec.evaluation.look import shared_look, sheet
from corellarec.evaluation.report import Section, data_and_dates, heading, lead, sections
from corellarec.evaluation.results import Evaluation
from corellarec.evaluation.text import number, percent

CARDS = {  # colours by key
    "cascade": "cascade",
    "crm_calibrated": "crm",
    "llm_calibrated": "llm",
    "blend_all": "cascade",
}


@dataclass(frozen=True)
class Card:
    """A figure at the top of a page: what it is of, its value, what it is, and a colour's name."""

    name: str
    value: str
    note: str
    colour: str = ""


def render(result: Evaluation) -> str:
    """The report as one HTML page that needs no other file and no network."""
    cards = []
    for key, colour in CARDS.items():
        row = result.row(key)
        note = f"AUC, {percent(row.llm_share)} LLM share"
        if key == "cascade" and row.llm_share == 0:
            note += ": the cascade is the CRM"
        cards.append(Card(row.name, number(row.metrics["auc"].value), note, colour))
    data = data_and_dates(result)
    return render_page(heading(result), data, lead(result), cards, sections(result))


def render_page(
    title: str, data: str, summary: str, cards: Sequence[Card], parts: Sequence[Section]
) -> str:
    """One HTML page that needs no other file and no network.

    Args:
        title: Its heading.
        data: What it is about, beside the heading; may be empty.
        summary: A sentence or two below.
        cards: The figures at the top.
        parts: The sections.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = resources.files("corellarec.evaluation") / "page.html.j2"
    return environment.from_string(template.read_text("utf-8")).render(
        look=shared_look() + sheet("page"),
        heading=title,
        data=data,
        lead=summary,
        cards=cards,
        sections=parts,
    )


def to_markdown(result: Evaluation) -> str:
    """What was found and the tables, for documents."""
    parts = [f"# {result.name}", data_and_dates(result), lead(result)]
    parts += [_markdown(section) for section in sections(result) if not section.texts]
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown(section: Section) -> str:
    parts = ["\n".join(f"- {sentence}" for sentence in section.sentences)]
    parts += [_table(grid) for grid in (*section.grids, *section.details)]
    body = [part for part in parts if part]
    return "\n\n".join([f"## {section.title}", *body, section.note]).rstrip() if body else ""


def _table(grid: Grid) -> str:
    rows = [[_cell(cell) for cell in line.cells] for line in grid.lines]
    lines = [list(grid.head), ["---"] * len(grid.head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(cell: Cell) -> str:
    return f"{cell.text} ({cell.small})" if cell.small else cell.text
