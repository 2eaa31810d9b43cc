"""Commands that make a run, and those that look at one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corellarec.cli.options import (
    AsJson,
    ConfigFile,
    Out,
    Preset,
    RunDirectory,
    Settings,
    SkipBadRows,
    model_of,
    output_console,
    print_json,
    say,
)

if TYPE_CHECKING:
    from corellarec.api import CoReLLa
    from corellarec.evaluation.results import Evaluation


DEFAULT_OUT = Path("runs", "quick")


def add_to(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for command in (run, prepare, train, evaluate, report, compare, info, adapter, models):
        app.command()(command)


def run(
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    out: Out = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in the directory, if there is one.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the run in the directory first.")
    ] = False,
    adapter: Annotated[
        str | None,
        typer.Option(help="A tuned adapter to use as it is (llm.adapter), such as `pretrained`."),
    ] = None,
    skip_bad_rows: SkipBadRows = None,
    as_json: AsJson = False,
) -> None:
    """Fetch, prepare, train all stages, fit the cascade, evaluate, and write the report.

    With --resume, settings of the sections distill, cascade and evaluate may differ from the run's:
    these are computed again from stored scores. Without --preset and --config the run's own
    settings are taken.
    """
    from corellarec.base.errors import ConfigError
    from corellarec.run.records import CONFIG, remove_run

    given = [*(settings or []), *([f"llm.adapter={adapter}"] if adapter else [])]
    directory = out or DEFAULT_OUT
    if resume and not preset and not config and (directory / CONFIG).is_file():
        model = _resumed(directory, given, skip_bad_rows)
    else:
        model = model_of(preset, config, given, out, skip_bad_rows)
    if overwrite:
        remove_run(model.directory)
    begun = (model.directory / CONFIG).exists() and (model.directory / "data").exists()
    if begun and not resume:
        raise ConfigError(
            f"{model.directory} holds a run: --resume continues it, --overwrite deletes it, and "
            "--out takes another directory"
        )
    model.fit()
    found = model.evaluate()
    if model.workspace.accelerator.is_main_process:
        _finish(model, found, as_json)


def _resumed(directory: Path, settings: list[str], skip_bad_rows: int | None) -> "CoReLLa":
    """A run with its own settings, and those given on top."""
    from corellarec.api import CoReLLa
    from corellarec.config import changed, settings_tree

    model = CoReLLa.open(directory)
    if skip_bad_rows is not None:
        settings = [*settings, f"data.skip_bad_rows={skip_bad_rows}"]
    model.config = changed(model.config, settings_tree(settings))
    return model


def _finish(model: "CoReLLa", found: "Evaluation", as_json: bool) -> None:
    from corellarec.evaluation.terminal import tables

    path = model.directory / "report.html"
    found.save(path)
    if as_json:
        print_json(found)
        return
    console = output_console()
    console.print(tables(found))
    console.print(f"Cascade: {found.router.explanation}.", highlight=False, soft_wrap=True)
    console.print(f"Report: {path}", highlight=False, soft_wrap=True)


def prepare(
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    out: Out = None,
    skip_bad_rows: SkipBadRows = None,
    as_json: AsJson = False,
) -> None:
    """Prepare the log: labels, time split, vocabularies. Does nothing if it is up to date."""
    from corellarec.run.prepare import prepare_log

    workspace = model_of(preset, config, settings, out, skip_bad_rows).workspace
    with workspace.alone():
        workspace.start()
        preparation = prepare_log(workspace)
    if not workspace.accelerator.is_main_process:
        return
    if as_json:
        print_json(preparation)
    else:
        output_console().print(preparation.summary(), highlight=False, soft_wrap=True)


def train(
    stage: Annotated[int, typer.Option(min=1, max=3, help="The stage to train: 1, 2 or 3.")],
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Train one stage; continues an interrupted one. The stages before it must be done.

    Stage 1 trains all networks of the CRM.
    """
    from corellarec.run.members import train_members
    from corellarec.run.prepare import prepare_log
    from corellarec.run.stages import train_stage

    workspace = model_of(preset, config, settings, out).workspace
    with workspace.alone():
        workspace.start()
        prepare_log(workspace)
        state = train_stage(workspace, stage)
        if stage == 1:
            train_members(workspace)
    if as_json and workspace.accelerator.is_main_process:
        print_json(state)


def evaluate(run: RunDirectory, as_json: AsJson = False) -> None:
    """Fit the cascade on validation data if need be, and measure it on the test split."""
    from corellarec.api import CoReLLa

    model = CoReLLa.open(run)
    found = model.evaluate()
    if model.workspace.accelerator.is_main_process:
        _finish(model, found, as_json)


def report(run: RunDirectory, as_json: AsJson = False) -> None:
    """Write report.html again from metrics.json, and print its tables."""
    from corellarec.api import CoReLLa
    from corellarec.evaluation.run import read_evaluation

    model = CoReLLa.open(run)
    _finish(model, read_evaluation(run, model.config), as_json)


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Finished runs; the first is compared against."),
    ],
    as_json: AsJson = False,
) -> None:
    """Compare runs on the test rows that all of them scored, with paired intervals.

    Nothing is trained or scored again. Which settings differ is in each run's config.toml.
    """
    from corellarec.evaluation.compare import compare as compare_runs
    from corellarec.evaluation.terminal import comparison_tables

    found = compare_runs(runs)
    if as_json:
        print_json(found)
    else:
        output_console().print(comparison_tables(found))


def info(run: RunDirectory, as_json: AsJson = False) -> None:
    """Say what a run's directory holds: which steps are done, and the figures if there are any."""
    from corellarec.evaluation.run import read_evaluation
    from corellarec.evaluation.terminal import tables
    from corellarec.run.status import status

    found = status(run)
    if as_json:
        evaluation = read_evaluation(run, found.config) if found.evaluated else None
        print_json({"status": found, "metrics": evaluation})
        return
    console = output_console()
    for step, state in found.lines():
        console.print(f"{step:12} {state}", highlight=False)
    if found.evaluated:
        console.print(tables(read_evaluation(run, found.config)))


def adapter(
    run: RunDirectory,
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Directory to write.")],
    as_json: AsJson = False,
) -> None:
    """Take the tuned adapter out of a run, for other runs' llm.adapter."""
    from corellarec.api import CoReLLa
    from corellarec.run.fit import export_adapter

    facts = export_adapter(CoReLLa.open(run).workspace, output)
    if as_json:
        print_json({**vars(facts), "output": str(output)})
    else:
        say(f"{output}: validation log loss {facts.validation_log_loss:.4f}")


def models(as_json: AsJson = False) -> None:
    """List the language models that have a name here, and which of them are in the cache."""
    from corellarec.cli.tables import models_table
    from corellarec.llm.catalog import listed_models

    found = listed_models()
    if as_json:
        print_json({"models": found})
        return
    console = output_console()
    console.print(models_table(found))
    console.print(
        "llm.model takes any of these names, any other causal model on the hub as owner/name, a "
        "directory with safetensors, or a .gguf file.",
        soft_wrap=True,
    )
