"""The command ``corellarec``: parse, call, print.

Commands load what they need when they run, so that ``--help`` loads neither torch nor polars.
"""

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from corellarec.cli import data, predict, rank, research, run, score, serve

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help=(
        "Train a conventional recommender model (CRM) and a language model (LLM) together, and "
        "route samples between them.\n\nStart with `corellarec run --preset quick`."
    ),
)
for part in (run, predict, rank, score, serve, data, research):
    part.add_to(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"corellarec {version('corellarec')}\n")
        raise typer.Exit


@app.callback()
def common(
    # The option's callback runs before typer finds that no command is given.
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Options of the program itself."""
