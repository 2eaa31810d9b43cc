"""The command line: parse, call, print."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import tomli_w
import torch
import typer
from rich.console import Console
from rich.table import Table

from corellarec.base.artifacts import to_tree, write_text
from corellarec.base.cache import cache_dir
from corellarec.base.console import Display, baseline_table, say_warnings, search
from corellarec.base.device import pick_device, pick_dtype
from corellarec.base.errors import ArtifactError, ConfigError, CorellarecError, DataError
from corellarec.cascade.cascade import Cascade
from corellarec.cascade.router import explain
from corellarec.config import Config, load_config, preset_names
from corellarec.crm.external import score_logits
from corellarec.data.fetch import fetch_movielens
from corellarec.data.files import check_name, read_table, write_table
from corellarec.data.prepare import build
from corellarec.data.splits import SPLITS
from corellarec.data.wizard import propose_settings
from corellarec.evaluation.page import render, tables
from corellarec.llm.catalog import find_model, listed_models
from corellarec.llm.layout import Layout
from corellarec.llm.load import load_model
from corellarec.llm.remote import RemoteScorer
from corellarec.llm.title_vectors import title_vectors
from corellarec.research.baselines.run import run_baseline
from corellarec.research.study.page import to_markdown
from corellarec.research.study.run import Study
from corellarec.research.study.spec import load_study, study_names
from corellarec.research.tune import Tuner
from corellarec.run.run import Run
from corellarec.run.workspace import remove_run

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help=(
        "Train a recommender (CRM) and a language model (LLM) together, and let each answer what "
        "it is good at.\n\nStart with `corellarec run --preset quick`."
    ),
)
data_app = typer.Typer(no_args_is_help=True, help="Check logs, and take out what they hold.")
app.add_typer(data_app, name="data")
console = Console(stderr=True)

Preset = Annotated[
    str | None,
    typer.Option(
        help=f"Settings to start from: {', '.join(n for n in preset_names() if '/' not in n)}; "
        "ml-100k/din, ml-1m/din and so on have another CRM, its hyper-parameters searched."
    ),
]
ConfigFile = Annotated[
    list[Path] | None,
    typer.Option("--config", help="TOML file on top of the preset; may be repeated."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="One setting, such as `cascade.budget=0.2`; may be repeated."),
]
SkipBadRows = Annotated[
    int | None,
    typer.Option(min=0, help="Bad rows of the log that may be left out (data.skip_bad_rows)."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
RunDirectory = Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a run.")]
Out = Annotated[Path | None, typer.Option(help="Directory of the run; the default is runs/PRESET.")]


def _settings(
    preset: str | None, config: list[Path] | None, settings: list[str] | None, out: Path | None
) -> tuple[Config, Path]:
    """The configuration, and the directory it goes into."""
    if preset is None and not config:
        preset = "quick"
    name = config[0].stem if config else (preset or "quick").replace("/", "-")
    return load_config(preset=preset, files=config or (), settings=settings or ()), out or Path(
        "runs", name
    )


def _print_json(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")


@app.command()
def run(
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    out: Out = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in the directory, if there is one.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the run in the directory first.")
    ] = False,
    adapter: Annotated[
        str | None,
        typer.Option(help="A tuned adapter to use as it is (llm.adapter), such as `pretrained`."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Fetch, prepare, train all stages, fit the cascade, evaluate, and write the report.

    With --resume, settings of the sections cascade and evaluate may differ from the run's: both are
    done again from stored scores.
    """
    given = [f"llm.adapter={adapter}"] if adapter else []
    resolved, directory = _settings(preset, config, [*(settings or []), *given], out)
    if overwrite:
        remove_run(directory)
    if not resume and (directory / "config.toml").exists():
        raise ConfigError(
            f"{directory} holds a run: --resume goes on with it, --overwrite deletes it, and --out "
            "takes another directory"
        )
    here = Run(resolved, directory, console)
    _finish(here, here.everything(), as_json)


def _finish(here: Run, result: dict[str, Any], as_json: bool) -> None:
    if not here.accelerator.is_main_process:
        return
    report_path = here.directory / "report.html"
    write_text(report_path, render(result))
    if as_json:
        _print_json(result)
        return
    # A table cut off at 80 columns would hide figures: a pipe or file gets the width it needs.
    out = Console() if sys.stdout.isatty() else Console(width=150)
    out.print(tables(result))
    out.print(f"Cascade: {result['router']['explanation']}.", highlight=False, soft_wrap=True)
    out.print(f"Report: {report_path}", highlight=False)


@app.command()
def fetch(preset: Preset = None, config: ConfigFile = None, settings: Settings = None,
          as_json: Json = False) -> None:  # fmt: skip
    """Get the data set and the language model into the cache, and check them."""
    resolved, _ = _settings(preset, config, settings, None)
    data = resolved.data.path
    if not data and not resolved.data.interactions and resolved.data.fetch != "nothing":
        data = str(fetch_movielens(resolved.data.fetch))
    model = find_model(resolved.llm.model)
    if as_json:
        _print_json({"cache": str(cache_dir()), "data": data, "model": model})
    else:
        console.print(f"data: {data or 'your own'}\nmodel: {model}", highlight=False)


@app.command()
def prepare(
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    out: Out = None,
    skip_bad_rows: SkipBadRows = None,
    as_json: Json = False,
) -> None:
    """Prepare the log: labels, time split, vocabularies. Does nothing if it is up to date."""
    here = _start(preset, config, _with_skip(settings, skip_bad_rows), out)
    facts = here.prepare()
    if as_json:
        _print_json(to_tree(facts))
    else:
        Console().print(facts.summary(), highlight=False, soft_wrap=True)


def _with_skip(settings: list[str] | None, skip_bad_rows: int | None) -> list[str]:
    given = [] if skip_bad_rows is None else [f"data.skip_bad_rows={skip_bad_rows}"]
    return [*(settings or []), *given]


@data_app.command()
def check(
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    skip_bad_rows: SkipBadRows = None,
    as_json: Json = False,
) -> None:
    """Read and check a log, say what it holds and what looks wrong, and write nothing."""
    resolved, _ = _settings(preset, config, _with_skip(settings, skip_bad_rows), None)
    with console.status("reading the log"):
        facts = build(resolved.data).facts
    if as_json:
        _print_json(to_tree(facts))
        return
    Console().print(facts.summary(), highlight=False, soft_wrap=True)
    say_warnings(console, facts.warnings)
    console.print(
        f"{len(facts.warnings)} warning(s)" if facts.warnings else "nothing looks wrong",
        highlight=False,
    )


@data_app.command()
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
    check_name(output)
    resolved, _ = _settings(preset, config, settings, None)
    with console.status("reading the log"):
        prepared = build(resolved.data)
    rows = prepared.rows
    names = pl.Series([*SPLITS, "history"])
    table = rows.select(
        user=prepared.users["id"].gather(rows["user"]),
        item=prepared.items["id"].gather(rows["item"]),
        time="time",
        label="label",
        split=names.gather(rows["split"].cast(pl.UInt32)),
    )
    write_table(table, output)
    console.print(f"written: {output}, {table.height:,} rows", highlight=False, soft_wrap=True)


@data_app.command("title-vectors")
def write_title_vectors(
    output: Annotated[Path, typer.Option("-o", "--output", help="Parquet file to write.")],
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
) -> None:
    """Write a vector for each item's title: the language model's last layer, averaged.

    Give the file as data.item_vectors, and the CRM reads the vectors as a further feature.
    """
    if output.suffix != ".parquet":
        raise DataError(f"{output}: the name must end in .parquet")
    resolved, _ = _settings(preset, config, settings, None)
    display = Display(console, quiet=False)
    with display.waiting("reading the log"):
        items = build(resolved.data.model_copy(update={"item_vectors": None})).items
    device = pick_device(resolved.device)
    dtype = pick_dtype(resolved.llm.dtype, device)
    with display.waiting("loading the language model"):
        model, tokenizer = load_model(resolved.llm.model, dtype, device)
    titles = items["title"].fill_null("").to_list()
    with display.bar("titles") as report:
        done = 0

        def read(count: int) -> None:
            nonlocal done
            done += count
            report(done, len(titles), "")

        vectors = title_vectors(titles, model, tokenizer, resolved.llm.tokens_per_batch, read)
    table = pl.DataFrame({"item": items["id"], "vector": vectors.numpy()})
    write_table(table.filter(pl.Series(titles) != ""), output)


@app.command("init-data")
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
    label: Annotated[str | None, typer.Option(help="Column of the label, 0 or 1.")] = None,
    title: Annotated[str | None, typer.Option(help="Column of the item's title.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the TOML file if it is there.")
    ] = False,
) -> None:
    """Look at your own files and write a first configuration for them.

    Columns are told by their names and first rows; what is guessed is printed. Read the file that
    is written, correct it, and check it with `corellarec data check --config FILE`.
    """
    if output.exists() and not overwrite:
        raise ConfigError(f"{output} is there: --overwrite replaces it, -o takes another name")
    told = {"user": user, "item": item, "time": time_column, "rating": rating, "label": label,
            "title": title}  # fmt: skip
    proposal = propose_settings(paths, {role: name for role, name in told.items() if name})
    text = tomli_w.dumps(proposal.settings)
    write_text(output, f"# Written by corellarec init-data; every setting: docs/guide.md\n\n{text}")
    for line in proposal.guesses:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    console.print(
        f"written: {output}\nnext: corellarec data check --config {output}\n"
        f"then: corellarec run --preset quick --config {output} --out runs/{output.stem}",
        highlight=False,
        soft_wrap=True,
    )


def _start(
    preset: str | None, config: list[Path] | None, settings: list[str] | None, out: Path | None
) -> Run:
    """A run to take one step of; a directory that is there keeps its own settings."""
    resolved, directory = _settings(preset, config, settings, out)
    here = Run(resolved, directory, console)
    here.start()
    return here


@app.command()
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
    as_json: Json = False,
) -> None:
    """Search for the CRM's hyper-parameters on validation data; goes on where it stopped.

    Every setting of the model's space is searched, but those given with --set; the guide lists the
    spaces. The best trial is written as best.toml: `corellarec run --preset PRESET --config
    best.toml` trains with it. The same command in a second terminal searches along.
    """
    resolved, directory = _settings(preset, config, settings, out)
    if out is None:
        directory = Path("runs", f"tune-{directory.name}-{resolved.crm.model.replace(':', '.')}")
    given = [setting.partition("=")[0].strip() for setting in settings or ()]
    found = Tuner(resolved, given, directory, console).search(trials)
    if as_json:
        _print_json(found)
    else:
        (Console() if sys.stdout.isatty() else Console(width=150)).print(search(found))
        console.print(f"written: {found['best_file']}", highlight=False, soft_wrap=True)


@app.command()
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
    as_json: Json = False,
) -> None:
    """Train one of the paper's baselines with a language model, and measure it on the test rows.

    Goes on where it stopped; does nothing where it is done.
    """
    resolved, directory = _settings(preset, config, settings, out)
    if out is None:
        directory = directory.with_name(f"{directory.name}-{name}")
    found = run_baseline(
        name, resolved, rows=rows, model=model, directory=directory, console=console
    )
    if not found:
        return
    if as_json:
        _print_json(found)
    else:
        (Console() if sys.stdout.isatty() else Console(width=150)).print(baseline_table(found))


@app.command()
def study(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help=f"{', '.join(study_names())}, or a TOML file.")
    ],
    settings: Settings = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory to write; the default is runs/study-NAME.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would be trained, and what is done.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run the paper's experiments as one grid, and write their report.

    Every cell has a directory of its own, and steps that cells share are done once. The same
    command goes on where it was interrupted, and does nothing again that is done.
    """
    spec, base = load_study(name, settings or ())
    here = Study(spec, base, out or Path("runs", f"study-{Path(name).stem}"), console)
    if dry_run:
        for cell in here.cells:
            seconds = cell.seconds()
            done = "to do" if seconds is None else f"done in {seconds:,.0f} s"
            sys.stdout.write(f"{cell.title}: {done}\n")
        return
    result = here.everything()
    if as_json:
        _print_json(result)
    else:
        sys.stdout.write(to_markdown(result))
        console.print(f"Report: {here.directory / 'report.html'}", highlight=False)


@app.command()
def train(
    stage: Annotated[int, typer.Option(min=1, max=3, help="The stage to train: 1, 2 or 3.")],
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Train one stage; continues an interrupted one. The stages before it must be done."""
    here = _start(preset, config, settings, out)
    here.prepare()
    facts = here.train_stage(stage)
    if as_json:
        _print_json({name: value for name, value in facts.items() if name != "files"})


@app.command()
def evaluate(run: RunDirectory, as_json: Json = False) -> None:
    """Fit the cascade on validation data if need be, and measure everything on the test split."""
    here = Run.open(run, console)
    _finish(here, here.evaluate(), as_json)


@app.command()
def report(run: RunDirectory, as_json: Json = False) -> None:
    """Write report.html again from metrics.json, and print its tables."""
    here = Run.open(run, console)
    _finish(here, _read_metrics(run), as_json)


def _read_metrics(run: Path) -> dict[str, Any]:
    path = run / "metrics.json"
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ArtifactError(
            f"{path} is not there: `corellarec evaluate {run}` writes it"
        ) from error
    except ValueError as error:
        raise ArtifactError(
            f"{path} is damaged: `corellarec evaluate {run}` writes it again"
        ) from error


@app.command()
def info(run: RunDirectory, as_json: Json = False) -> None:
    """Say what a run's directory holds: which steps are done, and the figures if there are any."""
    here = Run.open(run, console)
    names = ("data", "stage1", "stage2", "stage3", "cascade")
    done = {name: (run / name / "manifest.json").exists() for name in names}
    done["evaluated"] = (run / "metrics.json").exists()
    found: dict[str, Any] = {"run": str(run), "done": done}
    found["config"] = here.config.model_dump(mode="json")
    if done["evaluated"]:
        found["metrics"] = _read_metrics(run)
    if as_json:
        _print_json(found)
        return
    out = Console()
    for name, is_done in done.items():
        out.print(f"{name:10} {'done' if is_done else 'not yet'}", highlight=False)
    if done["evaluated"]:
        out.print(tables(found["metrics"]))


@app.command()
def adapter(
    run: RunDirectory,
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Directory to write.")],
    as_json: Json = False,
) -> None:
    """Take the tuned adapter out of a run, for other runs' llm.adapter."""
    facts = Run.open(run, console).write_adapter(output)
    if as_json:
        _print_json(facts | {"output": str(output)})
    else:
        console.print(
            f"{output}: validation log loss {facts['validation_log_loss']:.4f}", highlight=False
        )


@app.command()
def models(as_json: Json = False) -> None:
    """List the language models that have a name here, and which of them are in the cache."""
    found = listed_models()
    if as_json:
        _print_json({"models": found})
        return
    table = Table()
    for name in ("name", "from", "licence", "cached"):
        table.add_column(name, no_wrap=name == "from", overflow="fold")
    for one in found:
        table.add_row(one["name"], one["source"], one["licence"], "yes" if one["cached"] else "no")
    Console().print(table)
    Console().print(
        "llm.model takes any of these names, any other causal model on the hub as owner/name, a "
        "directory with safetensors, or a .gguf file.",
        soft_wrap=True,
    )


@app.command()
def predict(
    run: RunDirectory,
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="CSV or Parquet with columns user and item.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="CSV or Parquet to write.")],
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="A vLLM server that answers for the LLM.")
    ] = None,
    server_model: Annotated[
        str, typer.Option(metavar="NAME", help="What the server calls the tuned model.")
    ] = "corellarec",
    cache_salt: Annotated[
        str | None, typer.Option(help="Keeps the server's cached prompts to this caller.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Score (user, item) pairs: adds p, p_crm, p_llm, source and entropy.

    A user's history is all that the log knows of them. Users the log does not know are scored
    without history. Where the CRM is external, the input needs its score, too. With --server the
    language model runs elsewhere; the key, if it wants one, is in VLLM_API_KEY.
    """
    check_name(output)

    def remote(layout: Layout) -> RemoteScorer:
        assert server is not None
        return RemoteScorer(layout, server, server_model, cache_salt=cache_salt)

    cascade = Cascade.load(run / "cascade", pick_device("auto"), remote if server else None)
    external = cascade.crm_config.external if cascade.crm is None else None
    pairs = read_table(source, ("user", "item", "score") if external else ("user", "item"))
    if clash := {"p", "p_crm", "p_llm", "source", "entropy"} & set(pairs.columns):
        raise DataError(f"{source}: rename the column {min(clash)!r}, which the output adds")
    user, item, unknown = _numbers(cascade, pairs, source)
    logit = score_logits(pairs, external, source).to_numpy() if external else None
    with console.status(f"scoring {pairs.height:,} pairs"):
        prediction = cascade.predict(cascade.log.pairs(user, item), crm_logit=logit)
    write_table(pl.concat([pairs, prediction.to_frame()], how="horizontal"), output)
    facts = {
        "pairs": pairs.height,
        "unknown_users": unknown,
        "asked": int(prediction.asked.sum()),
        "output": str(output),
        "router": explain(cascade.router),
    }
    if as_json:
        _print_json(facts)
        return
    console.print(
        f"{facts['pairs']:,} pairs scored into {output}; the LLM answered {facts['asked']:,}"
        + (f"; {unknown:,} pairs have a user the log does not know" if unknown else ""),
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"Cascade: {facts['router']}.", highlight=False, soft_wrap=True)


def _numbers(
    cascade: Cascade, pairs: pl.DataFrame, source: Path
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """User and item numbers of the pairs, and how many pairs have an unknown user."""
    numbers = {}
    for side, table in (("user", cascade.log.users), ("item", cascade.log.items)):
        index = table.select(pl.col("id").alias(side), pl.int_range(pl.len()).alias("number"))
        texts = pairs.select(pl.col(side).cast(pl.String))
        joined = texts.join(index, on=side, how="left", maintain_order="left")
        numbers[side] = joined["number"].fill_null(-1)
    unknown = (numbers["item"] == -1).arg_true()
    if len(unknown):
        place = int(unknown[0])
        raise DataError(
            f"{source}, row {place + 1}: item {pairs['item'][place]!r} is not in the log's items; "
            f"{len(unknown)} such row(s) in all: remove them, or prepare a log that lists them"
        )
    tensors = {side: torch.from_numpy(column.to_numpy().copy()) for side, column in numbers.items()}
    return tensors["user"], tensors["item"], int((numbers["user"] == -1).sum())


def main() -> None:
    """Entry point: the input's fault is one line on stderr and exit code 2."""
    try:
        app()
    except (CorellarecError, OSError) as error:  # OSError: a full disk, a folder not ours
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
