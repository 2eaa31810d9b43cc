"""The service, and the keys of its callers."""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from corellarec.base.errors import ConfigError
from corellarec.cli.options import (
    AsJson,
    Device,
    RunDirectory,
    output_console,
    print_json,
    say,
)
from corellarec.cli.predict import Llm, Trust


def add_to(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(serve)
    app.command()(explore)
    app.command("serve-key")(serve_key)
    app.command()(estimate)


def serve(
    run: RunDirectory,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with the service's settings.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address (http.host).")] = None,
    port: Annotated[int | None, typer.Option(help="Port (http.port).")] = None,
    llm_place: Annotated[
        str | None,
        typer.Option("--llm-place", help="Where the LLM runs: local or off (llm.place)."),
    ] = None,
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="A vLLM server (llm.server).")
    ] = None,
    device: Device = "auto",
    trust: Trust = None,
    llm: Llm = None,
) -> None:
    """Answer over HTTP, inside a deadline: the CRM always, the LLM where it pays and time allows.

    SIGTERM ends it once the requests in work are answered. What users did is kept in
    RUN/service/store.sqlite. Needs `pip install 'corellarec[serve]'`.
    """
    _needs_extra()
    import torch

    from corellarec.serve.keys import read_keys
    from corellarec.serve.model import ServedModel
    from corellarec.serve.server import check_address
    from corellarec.serve.server import run as run_server
    from corellarec.serve.service import Service
    from corellarec.serve.settings import load_serve_config
    from corellarec.serve.store import Store

    place = "server" if server else llm_place
    settings = load_serve_config(
        config,
        {"http.host": host, "http.port": port, "llm.place": place, "llm.server": server},
    )
    file = Path(settings.keys) if settings.keys else run / "service" / "keys.json"
    keys = read_keys(file)
    check_address(settings.http.host, keys, str(file))
    torch.set_num_threads(1)
    remote = {}
    if settings.llm.server:
        remote = {
            "server": settings.llm.server,
            "server_model": settings.llm.server_model,
            "cache_salt": settings.llm.cache_salt,
        }
    load = partial(ServedModel.load, device=device, trust=trust, llm=llm, server=remote)
    model = load(run)
    store = Store(settings.store or str(run / "service" / "store.sqlite"))
    service = Service(model, settings, store, load)
    say(f"{run}: {service.describe().router}")
    run_server(service, keys, run)


def explore(
    run: RunDirectory,
    beside: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Another run or cascade, to compare users' answers."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port; 0 takes a free one.")] = 0,
    browser: Annotated[bool, typer.Option(help="Open the pages in a browser.")] = True,
    device: Device = "auto",
    trust: Trust = None,
    llm: Llm = None,
) -> None:
    """Look into a run in the browser: users, two opinions on each candidate, what if, and why.

    The pages are those of `serve`, for this machine and one session alone: the address that is
    printed opens it once. Nothing is kept.
    """
    _needs_extra()
    import secrets
    import tempfile
    import webbrowser

    import torch

    from corellarec.serve.keys import Key
    from corellarec.serve.model import ServedModel
    from corellarec.serve.server import run as run_server
    from corellarec.serve.service import Service
    from corellarec.serve.sessions import Sessions
    from corellarec.serve.settings import load_serve_config
    from corellarec.serve.store import Store

    torch.set_num_threads(1)
    nobody = [Key("nobody", secrets.token_hex(32), ())]
    sessions = Sessions(nobody)
    settings = load_serve_config(None, {"http.port": port, "http.log_requests": False})
    load = partial(ServedModel.load, device=device, trust=trust, llm=llm, server={})
    model = load(run)

    def started(address: str) -> None:
        page = f"{address}/login?word={sessions.word()}"
        say(f"open {page}")
        if browser:
            webbrowser.open(page)

    with tempfile.TemporaryDirectory() as folder:
        service = Service(model, settings, Store(str(Path(folder) / "store.sqlite")), load)
        if beside is not None:
            service.load(beside, "shadow", 0.0)
        run_server(service, nobody, run, sessions, started)


def serve_key(
    run: RunDirectory,
    name: Annotated[str, typer.Option(help="Who will have it; shown in logs.")],
    scope: Annotated[
        list[str],
        typer.Option(help="What it allows: score, events, explore, admin; may be repeated."),
    ],
    config: Annotated[
        Path | None, typer.Option(help="TOML file with the service's settings.")
    ] = None,
) -> None:
    """Make a caller's key and print it; only its hash is kept. A running service reads it when it
    starts again.
    """  # noqa: D205
    from corellarec.serve.keys import make_key
    from corellarec.serve.settings import load_serve_config

    settings = load_serve_config(config, {})
    file = Path(settings.keys) if settings.keys else run / "service" / "keys.json"
    if not run.is_dir():
        raise ConfigError(f"{run} is no directory: give that of the run")
    sys.stdout.write(make_key(file, name, scope) + "\n")  # pyright: ignore[reportArgumentType]


def estimate(
    log: Annotated[
        Path, typer.Argument(metavar="LOG", help="Directory of decisions (decisions.directory).")
    ],
    store: Annotated[
        str | None,
        typer.Option(help="Store of the events; by default the one that the log names."),
    ] = None,
    hours: Annotated[
        float, typer.Option(min=0.0, help="An event labels a row decided so long before.")
    ] = 24.0,
    positive_rating: Annotated[
        float, typer.Option(help="A rating at or above it is a positive label.")
    ] = 4.0,
    lists: Annotated[
        bool, typer.Option("--lists", help="Take lists that were decided as a whole, not rows.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """What asking the LLM gains in service, from the decisions of a service and later events."""
    from corellarec.cli.tables import gains_table
    from corellarec.serve.estimate import estimate as estimate_log

    found = estimate_log(log, store, hours, positive_rating, lists=lists)
    gains, unit = found.gains, "list" if lists else "row"
    if as_json:
        print_json(found)
        return
    output_console().print(gains_table(gains, lists=lists))
    say(
        f"{gains.rows:,} labelled {unit}s of {gains.users:,} users; {gains.above:.1%} above the "
        f"threshold, {gains.explored:,} of these not asked about, by chance; the LLM answered "
        f"{found.answered:.1%} of what was to be asked. {found.unlabelled:.1%} of the {unit}s have "
        f"no later {'positive ' if lists else ''}event; {found.over_budget:.1%} of the rest were "
        "decided with the budget spent, and are left out. `paired` holds where what is served does "
        "not change what users do."
    )


def _needs_extra() -> None:
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"serve needs {error.name}: pip install 'corellarec[serve]'") from error
