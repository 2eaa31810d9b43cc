"""Commands that make many runs and compare them."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from corellarec.base.errors import ConfigError
from corellarec.cli.entry import is_shared
from corellarec.cli.options import (
    Actors,
    AsJson,
    ConfigFile,
    Engine,
    OnEngine,
    Preset,
    Settings,
    error_console,
    model_of,
    output_console,
    print_json,
    say,
)

GRIDS = sorted(p.stem for p in (Path(__file__).parents[1] / "research/study/grids").glob("*.toml"))


def add_to(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for command in (tune, baseline, study):
        app.command()(command)


def actors(engine: Engine, workers: int) -> int:
    """Actors of Ray; 0 where it is not used.

    Raises:
        ConfigError: If there are to be several workers without Ray, or torchrun's processes.
    """
    if is_shared():
        raise ConfigError(
            "torchrun's processes share one run, not trials or cells: start without torchrun; "
            "--engine ray --workers N works on several at once"
        )
    if engine is Engine.LOCAL and workers > 1:
        raise ConfigError("--workers needs --engine ray")
    return workers if engine is Engine.RAY else 0


def tune(
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Directory of the search; the default is runs/tune-PRESET-MODEL."),
    ] = None,
    trials: Annotated[
        int, typer.Option(min=1, help="Trials in all, those of an earlier call included.")
    ] = 20,
    engine: OnEngine = Engine.LOCAL,
    workers: Actors = 1,
    as_json: AsJson = False,
) -> None:
    """Search for the CRM's hyper-parameters on validation data; continues where it stopped.

    Every setting of the model's space is searched, but those given with --set; the guide lists the
    spaces. The best trial is written as best.toml: `corellarec run --preset PRESET --config
    best.toml` trains with it. The same command in a second terminal searches along.
    """
    from corellarec.cli.tables import search_table
    from corellarec.research.tune import Tuner

    several = actors(engine, workers)
    model = model_of(preset, config, settings, out)
    directory = model.directory
    if out is None:
        crm = model.config.crm.model.replace(":", ".")
        directory = Path("runs", f"tune-{directory.name}-{crm}")
    given = [setting.partition("=")[0].strip() for setting in settings or ()]
    found = Tuner(model.config, given, directory, error_console()).search(trials, several)
    if as_json:
        print_json(found)
    else:
        output_console().print(search_table(found))
        say(f"written: {found.best_file}")


def baseline(
    name: Annotated[str, typer.Argument(metavar="NAME", help="tallrec, ctrl or p5.")],
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory to write; the default is runs/PRESET-NAME.")
    ] = None,
    rows: Annotated[
        str | None,
        typer.Option(
            metavar="N|all",
            help="Training rows for the language model; the default is 64 for tallrec, and "
            "stage2.rows for the others.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="p5's encoder-decoder, from the hub or a directory; the default is a small T5 "
            "with random weights.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train one of the paper's baselines with a language model, and measure it on the test rows.

    Continues where it stopped; does nothing where it is done.
    """
    from corellarec.cli.tables import baseline_table
    from corellarec.research.baselines.run import run_baseline

    run = model_of(preset, config, settings, out)
    directory = run.directory
    if out is None:
        directory = directory.with_name(f"{directory.name}-{name}")
    found = run_baseline(
        name, run.config, rows=rows, model=model, directory=directory, console=error_console()
    )
    if found is None:
        return
    if as_json:
        print_json(found)
    else:
        output_console().print(baseline_table(found))


def study(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help=f"{', '.join(GRIDS)}, or a TOML file.")
    ],
    settings: Settings = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory to write; the default is runs/study-NAME.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would be trained, and what is done.")
    ] = False,
    engine: OnEngine = Engine.LOCAL,
    workers: Actors = 1,
    as_json: AsJson = False,
) -> None:
    """Run the paper's experiments as one grid, and write their report.

    Every cell has a directory of its own, and steps that cells share are done once. The same
    command continues where it was interrupted, and does nothing again that is done.
    """
    from corellarec.evaluation.terminal import tables
    from corellarec.research.study.run import Study
    from corellarec.research.study.spec import load_study

    several = actors(engine, workers)
    spec, base = load_study(name, settings or ())
    grid = Study(spec, base, out or Path("runs", f"study-{Path(name).stem}"), error_console())
    if dry_run:
        for cell in grid.cells:
            seconds = cell.seconds()
            done = "to do" if seconds is None else f"done in {seconds:,.0f} s"
            sys.stdout.write(f"{cell.title}: {done}\n")
        return
    result = grid.run(several)
    if as_json:
        print_json(result)
    else:
        output_console().print(tables(result))
        say(f"Report: {grid.directory / 'report.html'}")
