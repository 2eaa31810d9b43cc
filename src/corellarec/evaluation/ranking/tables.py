"""A ranking's figures as tables for a terminal of 80 columns or more."""

from rich.console import Group
from rich.table import Table

from corellarec.cascade.lists import MIN_LISTS
from corellarec.evaluation.ranking.results import Decision, Ranking
from corellarec.evaluation.terminal import plain_table
from corellarec.evaluation.text import interval, number, percent, signed, signed_interval

STYLES = {"cascade": "bold"}
OTHERS = {"hit_rate": "HR", "mrr": "MRR", "map": "MAP"}


def ranking_tables(found: Ranking) -> Group:
    """NDCG and recall with differences from the reference, the other metrics, groups of users."""
    first, last = found.k[0], found.k[-1]
    against = found.row(found.reference).name
    head = f"{in_words(found)}; differences from {against}, with 95 % intervals"
    parts = [
        _compared(found, f"ndcg@{first}", f"NDCG@{first}", head),
        _compared(found, f"recall@{last}", f"Recall@{last}", ""),
        _others(found, first),
    ]
    if found.groups:
        parts.append(_groups(found, f"NDCG@{first} of groups of users, by training and history"))
    return Group(*[line for part in parts for line in (part, "")][:-1])


def in_words(found: Ranking) -> str:
    """What was ranked for whom."""
    what = f"all {found.candidates:,} items"
    if found.sampled:
        what = f"{found.sampled:,} drawn items and the relevant ones"
    cold = found.users - found.returning
    return f"{what} ranked for {found.users:,} users ({cold:,} cold) at the start of the test split"


def sentences(found: Ranking) -> list[str]:
    """What was decided, and what must be known to read the figures."""
    said = [decision_in_words(one) for one in found.decisions]
    left = [
        f"{count:,} of items {which}"
        for count, which in (
            (found.new, "without a row before"),
            (found.seen, "that the user had seen"),
        )
        if count
    ]
    if left:
        said.append(f"Of {found.positives:,} positive rows left out: {', '.join(left)}.")
    if found.sampled:
        said.append(
            "Sampled candidates: figures are larger than of all items, and may order rankers "
            "differently (Krichene & Rendle 2020)."
        )
    if found.tokens is not None and found.seconds is not None:
        said.append(
            f"The LLM read {found.tokens:,.0f} tokens for a list of {found.list_length}, in "
            f"{found.seconds:.2f} s."
        )
    return said


def decision_in_words(one: Decision) -> str:
    """Whether re-ranking gains on validation."""
    who = "LLM" if one.expert == "llm" else "control"
    where = "every list" if one.budget >= 1 else f"{100 * one.budget:g} % of the lists"
    if one.helps:
        found = f"gains {signed(one.gain)} NDCG on each (at least {signed(one.bound)})"
    elif one.expert_weight == 0:
        found = f"gets no weight: its order adds nothing to that of {one.lists} lists"
    elif one.asked >= MIN_LISTS:
        found = (
            f"shows no significant gain: {signed(one.gain)} NDCG on each of {one.asked} lists, "
            f"lower bound {signed(one.bound)}"
        )
    else:
        found = f"cannot show a gain: {one.asked} of {one.lists} lists would be asked about"
    return f"{who}, {where}: on validation it {found}."


def _compared(found: Ranking, metric: str, title: str, head: str) -> Table:
    table = plain_table(head, ["", "lists", title, "", "difference", ""])
    for row in found.table:
        value, gap = row.metrics[metric], row.over_reference[metric]
        cells = ["", ""]
        if row.key != found.reference:
            cells = [signed(gap.value), f"[dim]{signed_interval(gap, 3)}[/]"]
        table.add_row(
            row.name,
            percent(row.asked, 0) if row.kind in ("cascade", "control") else "",
            number(value.value),
            f"[dim]{interval(value, 3)}[/]",
            *cells,
            style=STYLES.get(row.key, ""),
        )
    return table


def _others(found: Ranking, k: int) -> Table:
    heads = [f"{name}@{k}" for name in OTHERS.values()]
    table = plain_table("", ["", *heads, f"coverage@{k}", "novelty"])
    for row in found.table:
        table.add_row(
            row.name,
            *(number(row.metrics[f"{name}@{k}"].value) for name in OTHERS),
            number(row.coverage[k]),
            f"{row.metrics[f'novelty@{k}'].value:.1f} bits",
            style=STYLES.get(row.key, ""),
        )
    return table


def group_heads(found: Ranking) -> list[str]:
    """What each group of users is, or how many rows their histories have; how many they are."""
    return [f"{group.name}\n{group.users:,} users" for group in found.groups]


def _groups(found: Ranking, title: str) -> Table:
    table = plain_table(title, ["", *group_heads(found)])
    for row in found.table:
        values = [number(group.figures[row.key].value) for group in found.groups]
        table.add_row(row.name, *values, style=STYLES.get(row.key, ""))
    return table
