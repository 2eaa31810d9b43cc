"""Commands that read logs and models' files."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from corellarec.cli.options import (
    AsJson,
    ConfigFile,
    Preset,
    Settings,
    SkipBadRows,
    error_console,
    model_of,
    output_console,
    print_json,
    say,
)


class FileLayout(StrEnum):
    """What `init-data` may be told that files are."""

    TABLES = "tables"
    MOVIELENS = "movielens"
    AMAZON = "amazon"
    RECBOLE = "recbole"


data_app = typer.Typer(no_args_is_help=True, help="Check logs, and take out what they hold.")


def add_to(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(fetch)
    app.command("init-data")(init_data)
    data_app.command()(check)
    data_app.command("profile")(write_profile)
    data_app.command()(export)
    data_app.command("title-vectors")(write_title_vectors)
    app.add_typer(data_app, name="data")


def fetch(
    preset: Preset = None, config: ConfigFile = None, settings: Settings = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Get the data set and the language model into the cache, and check them."""
    from corellarec.base.cache import cache_dir
    from corellarec.data.fetch import fetch_movielens
    from corellarec.llm.catalog import find_model

    resolved = model_of(preset, config, settings, None).config
    data = resolved.data.path
    if not data and not resolved.data.interactions and resolved.data.fetch != "nothing":
        data = str(fetch_movielens(resolved.data.fetch))
    model = find_model(resolved.llm.model)
    if as_json:
        print_json({"cache": str(cache_dir()), "data": data, "model": model})
    else:
        say(f"data: {data or 'your own'}\nmodel: {model}")


def check(
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    skip_bad_rows: SkipBadRows = None,
    as_json: AsJson = False,
) -> None:
    """Read and check a log, say what it holds and what looks wrong, and write nothing."""
    from corellarec.base.console import say_warnings
    from corellarec.data.prepare import build

    resolved = model_of(preset, config, settings, None, skip_bad_rows).config
    console = error_console()
    with console.status("reading the log"):
        found = build(resolved.data).facts
    if as_json:
        print_json(found)
        return
    output_console().print(found.summary(), highlight=False, soft_wrap=True)
    say_warnings(console, found.warnings)
    count = len(found.warnings)
    say(f"{count} warning(s)" if count else "no warnings")


def write_profile(
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    skip_bad_rows: SkipBadRows = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="HTML page to write.")] = Path(
        "profile.html"
    ),
    tokens_per_second: Annotated[
        float | None,
        typer.Option(
            min=1.0, help="Rate for the times of reading; 1,800 is SmolLM2-135M on two cores."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Describe a log before any training: one HTML page that opens offline, and a summary.

    Rows and label rate over time and by segment, popularity, histories, cold users and items by
    split, ratings, features, and what reading it costs the language model. Of the model only the
    tokenizer is used.
    """
    from corellarec.base.artifacts import write_text
    from corellarec.base.console import say_warnings
    from corellarec.data.prepare import build
    from corellarec.evaluation.facts import data_name
    from corellarec.evaluation.profile.measure import TOKENS_PER_SECOND, profile
    from corellarec.evaluation.profile.page import render, tables

    resolved = model_of(preset, config, settings, None, skip_bad_rows).config
    console = error_console()
    with console.status("reading the log"):
        prepared = build(resolved.data)
        found = profile(
            prepared, resolved, data_name(resolved.data), tokens_per_second or TOKENS_PER_SECOND
        )
        write_text(output, render(found))
    if as_json:
        print_json(found)
    else:
        output_console().print(tables(found), highlight=False)
        say_warnings(console, found.warnings)
    say(f"written: {output}")


def export(
    output: Annotated[Path, typer.Option("-o", "--output", help="CSV or Parquet to write.")],
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
) -> None:
    """Write the rows of the prepared log: user, item, time, label and split.

    For a CRM of your own: train it on the rows of the split `train`, add its `score` to those of
    `validation` and `test`, and give the file as crm.external.scores.
    """
    import polars as pl

    from corellarec.data.files import check_name, write_table
    from corellarec.data.prepare import build
    from corellarec.data.splits import SPLITS

    check_name(output)
    resolved = model_of(preset, config, settings, None).config
    with error_console().status("reading the log"):
        prepared = build(resolved.data)
    rows = prepared.rows
    table = rows.select(
        user=prepared.users["id"].gather(rows["user"]),
        item=prepared.items["id"].gather(rows["item"]),
        time="time",
        label="label",
        split=pl.Series([*SPLITS, "history"]).gather(rows["split"].cast(pl.UInt32)),
    )
    write_table(table, output)
    say(f"written: {output}, {table.height:,} rows")


def write_title_vectors(
    output: Annotated[Path, typer.Option("-o", "--output", help="Parquet file to write.")],
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
) -> None:
    """Write a vector for each item's title: the language model's last layer, averaged.

    Give the file as data.item_vectors, and the CRM reads the vectors as a further feature.
    """
    import polars as pl

    from corellarec.base.console import Display
    from corellarec.base.device import pick_device, pick_dtype
    from corellarec.base.errors import DataError
    from corellarec.data.files import write_table
    from corellarec.data.prepare import build
    from corellarec.llm.load import load_model
    from corellarec.llm.title_vectors import title_vectors

    if output.suffix != ".parquet":
        raise DataError(f"{output}: the name must end in .parquet")
    resolved = model_of(preset, config, settings, None).config
    display = Display(error_console(), quiet=False)
    with display.waiting("reading the log"):
        items = build(resolved.data.model_copy(update={"item_vectors": None})).items
    device = pick_device(resolved.device)
    dtype = pick_dtype(resolved.llm.dtype, device)
    with display.waiting("loading the language model"):
        model, tokenizer = load_model(resolved.llm.model, dtype, device)
    titles = items["title"].fill_null("").to_list()
    with display.counting("titles", len(titles)) as read:
        vectors = title_vectors(titles, model, tokenizer, resolved.llm.tokens_per_batch, read)
    table = pl.DataFrame({"item": items["id"], "vector": vectors.numpy()})
    write_table(table.filter(pl.Series(titles) != ""), output)
    say(f"written: {output}, {table.height:,} items")


def init_data(
    paths: Annotated[
        list[Path], typer.Argument(help="Your files, or a directory of them.", metavar="PATH...")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="TOML file to write.")] = Path(
        "corellarec.toml"
    ),
    user: Annotated[str | None, typer.Option(help="Column of the user's id.")] = None,
    item: Annotated[str | None, typer.Option(help="Column of the item's id.")] = None,
    time_column: Annotated[str | None, typer.Option("--time", help="Column of the time.")] = None,
    rating: Annotated[str | None, typer.Option(help="Column of the rating.")] = None,
    label: Annotated[
        str | None, typer.Option(help="Column of the label, 0 or 1; or `implicit`: there is none.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Column of the item's title.")] = None,
    layout: Annotated[
        FileLayout | None,
        typer.Option(
            "--as",
            help="What the files are, where it is not recognised: a known layout, or tables.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the TOML file if it is there.")
    ] = False,
) -> None:
    """Look at your own files and write a first configuration for them.

    Columns are told by their names, else by their first rows; what each is used for is printed.
    Read the file that is written, correct it, and check it with `corellarec data check --config
    FILE`.
    """
    import tomli_w

    from corellarec.base.artifacts import write_text
    from corellarec.base.errors import ConfigError
    from corellarec.cli.tables import uses_table
    from corellarec.data.wizard import propose_settings

    if output.exists() and not overwrite:
        raise ConfigError(f"{output} is there: --overwrite replaces it, -o takes another name")
    given = {"user": user, "item": item, "time": time_column, "rating": rating, "label": label,
             "title": title}  # fmt: skip
    known = {role: name for role, name in given.items() if name}
    proposal = propose_settings(paths, known, layout.value if layout else None)
    # A preset's template may speak of movies.
    template = proposal.template
    text = tomli_w.dumps({"llm": {"template": template}, **proposal.settings})
    write_text(output, f"# Written by corellarec init-data.\n\n{text}")
    if proposal.uses:
        error_console().print(uses_table(proposal.uses))
    for line in proposal.guesses:
        say(line)
    say(f"text: the template {template}; llm.template takes another one, or a file of your own")
    say(
        f"written: {output}\nnext: corellarec data check --config {output}\n"
        f"then: corellarec run --preset quick --config {output} --out runs/{output.stem}"
    )
