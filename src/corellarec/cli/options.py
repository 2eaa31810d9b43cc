"""Options that several commands have, and what they print with."""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from corellarec.api import CoReLLa

# Listed by file name: reading the presets themselves would load the whole configuration.
PRESETS = sorted(p.stem for p in (Path(__file__).parents[1] / "config/presets").glob("*.toml"))

Preset = Annotated[
    str | None,
    typer.Option(
        help=f"Settings to start from: {', '.join(PRESETS)}; ml-100k/din, ml-1m/din and so on "
        "have another CRM, its hyper-parameters searched."
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
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
RunDirectory = Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a run.")]
Out = Annotated[Path | None, typer.Option(help="Directory of the run; the default is runs/PRESET.")]
Device = Annotated[str, typer.Option(help="Where models run: auto, cpu or cuda.")]


class Engine(StrEnum):
    """What the workers are."""

    LOCAL = "local"
    RAY = "ray"


OnEngine = Annotated[
    Engine,
    typer.Option(
        help="local: here, one after the other; ray: on actors of the cluster that RAY_ADDRESS "
        "names, or of a new one here (needs corellarec\\[ray])."
    ),
]
Actors = Annotated[int, typer.Option("--workers", min=1, help="Actors, with --engine ray.")]


def error_console() -> "Console":
    """Where progress and errors go."""
    from rich.console import Console

    return Console(stderr=True)


def output_console() -> "Console":
    """Where tables go."""
    from rich.console import Console

    return Console()


def say(text: str) -> None:
    """A line on stderr, however long."""
    error_console().print(text, highlight=False, soft_wrap=True, markup=False)


def model_of(
    preset: str | None,
    config: list[Path] | None,
    settings: list[str] | None,
    out: Path | None,
    skip_bad_rows: int | None = None,
) -> "CoReLLa":
    """The run that the options describe."""
    from corellarec.api import CoReLLa
    from corellarec.config import load_config

    if preset is None and not config:
        preset = "quick"
    settings = list(settings or ())
    if skip_bad_rows is not None:
        settings.append(f"data.skip_bad_rows={skip_bad_rows}")
    resolved = load_config(preset=preset, files=config or (), settings=settings)
    name = config[0].stem if config else (preset or "quick").replace("/", "-")
    return CoReLLa(resolved, directory=out or Path("runs", name))


def print_json(value: Any) -> None:  # noqa: ANN401 (any dataclass or JSON)
    """One line of JSON on stdout."""
    from pydantic_core import to_jsonable_python

    # JSON has no NaN: what cannot be estimated is null.
    plain = to_jsonable_python(value, inf_nan_mode="null")
    sys.stdout.write(json.dumps(plain) + "\n")
