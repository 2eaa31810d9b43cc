"""The command that measures rankings."""

from pathlib import Path
from typing import Annotated

import typer

from corellarec.cli.options import AsJson, RunDirectory, output_console, print_json


def add_to(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(rank)


def rank(
    run: RunDirectory,
    k: Annotated[
        str, typer.Option("-k", metavar="K,K...", help="Places that count, such as 10,20.")
    ] = "10,20",
    retriever: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="What makes the lists that the LLM re-ranks: crm, ease, item-knn, popularity or "
            "recent; auto is crm, or ease where no CRM is trained.",
        ),
    ] = "auto",
    list_length: Annotated[
        int, typer.Option(min=1, help="Items of a list that the LLM may re-rank.")
    ] = 50,
    budget: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the lists that it may re-rank.")
    ] = 0.1,
    llm: Annotated[
        bool, typer.Option("--llm/--no-llm", help="Whether to ask the LLM, if it is tuned.")
    ] = True,
    control: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="A run of the same log whose CRM re-ranks, too."),
    ] = None,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep",
            help="Keep with the cascade whose lists the LLM re-ranks, if that gains on "
            "validation: `recommend` then decides for whole lists.",
        ),
    ] = False,
    users: Annotated[int, typer.Option(min=0, help="Random users to rank for; 0 is all.")] = 0,
    candidates: Annotated[
        int,
        typer.Option(
            min=0,
            help="So many irrelevant items a user in place of all: figures are larger, and may "
            "order rankers differently (Krichene & Rendle 2020).",
        ),
    ] = 0,
    include_seen: Annotated[
        bool, typer.Option("--include-seen", help="Rank items that a user has rows of, too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Rank all items for the users of the test split, and measure NDCG, recall and others.

    A run with a prepared log is enough for popularity, item-kNN and EASE; the CRM and the LLM are
    measured if they are trained. Each user is ranked for once, as of the start of the test split.
    Writes ranking.json and the page ranking.html into the run.
    """
    from corellarec.base.errors import ConfigError
    from corellarec.evaluation.ranking.run import rank as rank_run
    from corellarec.evaluation.ranking.tables import ranking_tables, sentences

    try:
        places = [int(part) for part in k.split(",")]
    except ValueError as error:
        raise ConfigError(f"-k takes numbers with commas, such as 10,20, not {k!r}") from error
    found = rank_run(
        run,
        k=places,
        retriever=retriever,  # pyright: ignore[reportArgumentType] (checked there)
        list_length=list_length,
        budget=budget,
        llm=llm,
        control=control,
        keep=keep,
        users=users,
        candidates=candidates,
        mask_seen=not include_seen,
        quiet=as_json,
    )
    if as_json:
        print_json(found)
        return
    console = output_console()
    console.print(ranking_tables(found))
    for sentence in sentences(found):
        console.print(sentence, highlight=False, soft_wrap=True)
    console.print(f"Page: {run / 'ranking.html'}", highlight=False, soft_wrap=True)
