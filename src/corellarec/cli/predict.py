"""Commands that use a fitted cascade, and the audit of any two scores."""

from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corellarec.cli.options import (
    AsJson,
    Device,
    RunDirectory,
    error_console,
    output_console,
    print_json,
    say,
)

if TYPE_CHECKING:
    import polars as pl

    from corellarec.cascade.cascade import Cascade
    from corellarec.config import DataConfig

Events = Annotated[
    Path | None,
    typer.Option(
        help="File of interactions after training, which enter the histories: in the columns of "
        "the run's own log, or CSV or Parquet of user, item, label or rating, and perhaps time."
    ),
]
Items = Annotated[
    Path | None,
    typer.Option(
        help="File of new items: in the columns of the run's own items, or CSV or Parquet of id, "
        "title and features."
    ),
]
Trust = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:CLASS",
        help="Import this class, which the run names as its CRM; nothing else is imported.",
    ),
]
Llm = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The language model that the run was tuned on, to fetch it from the hub, or its "
        "directory.",
    ),
]
Server = Annotated[
    str | None, typer.Option(metavar="URL", help="A vLLM server in the local LLM's place.")
]
ServerModel = Annotated[
    str, typer.Option(metavar="NAME", help="The server's name for the tuned model.")
]
CacheSalt = Annotated[
    str | None, typer.Option(help="Keeps the server's cached prompts to this caller.")
]
ServerTimeout = Annotated[
    float,
    typer.Option(
        metavar="SECONDS", help="What a request to the server may take, with its repetitions."
    ),
]


class OnServerError(StrEnum):
    """What becomes of rows that the server does not answer."""

    CRM = "crm"
    FAIL = "fail"


def add_to(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for command in (predict, recommend, audit):
        app.command()(command)


def predict(
    run: RunDirectory,
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="CSV or Parquet with columns user and item.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="CSV or Parquet to write.")],
    events: Events = None,
    items: Items = None,
    device: Device = "auto",
    server: Server = None,
    server_model: ServerModel = "corellarec",
    cache_salt: CacheSalt = None,
    server_timeout: ServerTimeout = 120.0,
    server_job_timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", help="What all requests for a batch of 100,000 pairs may take."
        ),
    ] = 3600.0,
    on_server_error: Annotated[
        OnServerError,
        typer.Option(
            help="Where the server fails: crm keeps the CRM's answers and says how many; fail "
            "writes nothing."
        ),
    ] = OnServerError.CRM,
    trust: Trust = None,
    llm: Llm = None,
    as_json: AsJson = False,
) -> None:
    """Score (user, item) pairs: adds p, p_crm, p_llm, source and entropy.

    The columns may also be called as in the run's log (data.interactions).
    The history is what the log holds before the column `time` (in the log's format and time zone,
    where the times name none), or all of it where there is no such column; a pair that the log
    holds is then scored as of its own row. Users the log does not know are scored without history.
    The file is read in batches and may be larger than memory. Where the CRM is external, the input
    needs its score, too. With --server the language model runs elsewhere; its key, if it wants one,
    is in VLLM_API_KEY.
    """
    from corellarec.base.console import Display, say_warnings
    from corellarec.cascade.cascade import Cascade
    from corellarec.cascade.files import predict_file
    from corellarec.cascade.router import explain

    cascade = Cascade.load(
        run,
        device=device,
        trust=trust,
        llm=llm,
        server=server,
        server_model=server_model,
        cache_salt=cache_salt,
        server_timeout_s=server_timeout,
        server_job_timeout_s=server_job_timeout,
        on_server_error=on_server_error.value,
    )
    _bring_up_to_date(cascade, run, items, events)
    with Display(error_console(), quiet=as_json).waiting(f"scoring {source}"):
        found = predict_file(cascade, source, output, names=_log_columns(run))
    verdict = explain(cascade.router)
    if found.unanswered:
        warning = (
            f"the server did not answer {found.unanswered:,} rows that were routed to it, and they "
            f"have the CRM's answer (--on-server-error fail refuses this): {found.server_error}"
        )
        say_warnings(error_console(), [warning])
    if as_json:
        print_json({**vars(found), "router": verdict})
        return
    unknown = found.unknown_users
    say(
        f"{found.pairs:,} pairs scored into {found.output}; the LLM answered {found.routed:,}"
        + (f"; {unknown:,} pairs have a user that the log does not know" if unknown else "")
    )
    say(f"Cascade: {verdict}.")


def _own_tables(run: Path) -> "DataConfig | None":
    """How the tables of a run are described; None for a saved cascade, or a known layout."""
    from corellarec.run.records import CONFIG, read_run_config

    if not (run / CONFIG).is_file():
        return None
    data = read_run_config(run).data
    return data if data.interactions else None


def _log_columns(run: Path) -> dict[str, str]:
    """What a run's own log calls the columns ``user``, ``item`` and ``time``."""
    data = _own_tables(run)
    log = data.interactions if data else None
    return {name: getattr(log, name) for name in ("user", "item", "time")} if log else {}


def recommend(
    run: RunDirectory,
    user: Annotated[list[str], typer.Option(help="Id of a user; may be repeated.")],
    k: Annotated[int, typer.Option("-k", min=1, help="Items per user.")] = 10,
    include_seen: Annotated[
        bool, typer.Option("--include-seen", help="Rank items of the user's history, too.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="CSV or Parquet to write.")
    ] = None,
    events: Events = None,
    items: Items = None,
    device: Device = "auto",
    trust: Trust = None,
    llm: Llm = None,
    as_json: AsJson = False,
) -> None:
    """Rank the items of the log for users, best first."""
    from corellarec.cascade.cascade import Cascade
    from corellarec.cli.tables import ranking_table
    from corellarec.data.files import check_name, write_table

    if output:
        check_name(output)
    cascade = Cascade.load(run, device=device, trust=trust, llm=llm)
    _bring_up_to_date(cascade, run, items, events)
    found = cascade.recommend(user, k, exclude_seen=not include_seen)
    known = set(cascade.log.users["id"].filter(cascade.log.users["id"].is_in(user)))
    if unknown := [one for one in user if one not in known]:
        say(f"not in the log, ranked as new users: {', '.join(unknown)}")
    titles = dict(zip(cascade.log.items["id"], cascade.log.titles, strict=True))
    if output:
        write_table(found, output)
        say(f"written: {output}, {found.height:,} rows")
    elif as_json:
        print_json(found.to_dicts())
    else:
        output_console().print(ranking_table(found, titles))


def _bring_up_to_date(
    cascade: "Cascade", run: Path, items: Path | None, events: Path | None
) -> None:
    """Add items and events, in the columns of the run's own tables or in ours."""
    from corellarec.data.sources.tables import read_more_items, read_more_rows

    own = _own_tables(run)
    if items:
        read = partial(read_more_items, own) if own else None
        table = _own_or_plain(items, read, ({"id", "item"}, {"title"}))
        say(f"{cascade.add_items(table):,} new items from {items}")
    if events:
        log = own.interactions if own else None
        read = partial(read_more_rows, log, time_unit=own.time_unit) if own and log else None
        plain = ({"user"}, {"item"}, {"label", "rating"})
        table = _own_or_plain(events, read, plain[:2] if log and log.is_implicit else plain)
        say(f"{cascade.observe(table):,} new interactions from {events}")


def _own_or_plain(
    path: Path, read: "Callable[[Path], pl.DataFrame] | None", plain: tuple[set[str], ...]
) -> "pl.DataFrame | Path":
    """A table in the columns of the run's own, or the file where it has one of each of ``plain``.

    Raises:
        DataError: If it is neither; of a run with tables of its own, what these lack is said.
    """
    from corellarec.base.errors import DataError
    from corellarec.base.frames import scan_table

    if read is None:
        return path
    try:
        return read(path)
    except DataError:
        with suppress(DataError):  # such as a file that only the run's settings can read
            found = set(scan_table(path).collect_schema().names())
            if all(found & names for names in plain):
                return path
        raise


def audit(
    source: Annotated[
        Path, typer.Argument(metavar="FILE", help="CSV or Parquet of labelled rows and scores.")
    ],
    label: Annotated[str, typer.Option(help="Column of the label, 1 or 0.")] = "label",
    crm: Annotated[str, typer.Option(help="Column of the cheap model's score.")] = "crm",
    expert: Annotated[str, typer.Option(help="Column of the expensive model's score.")] = "llm",
    user: Annotated[str | None, typer.Option(help="Column of the user's id.")] = None,
    time: Annotated[str | None, typer.Option(help="Column of the time.")] = None,
    budget: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of rows the expert may answer.")
    ] = 0.1,
    rows: Annotated[
        int, typer.Option(min=0, help="Rows of random users to use if there are more; 0 is all.")
    ] = 200_000,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="HTML report to write.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Does a second, expensive model pay? From two columns of scores and a label.

    No model of ours takes part: the scores may come from anywhere. The router is fitted on one half
    of the rows (the earlier, where there are times) and measured on the other.
    """
    from corellarec.evaluation.audit import audit as audit_scores
    from corellarec.evaluation.terminal import tables

    found = audit_scores(
        source,
        label=label,
        crm=crm,
        expert=expert,
        user=user,
        time=time,
        budget=budget,
        rows=rows,
    )
    if output:
        found.save(output)
    if as_json:
        print_json(found)
        return
    console = output_console()
    console.print(tables(found.evaluation))
    console.print(found.verdict, highlight=False, soft_wrap=True)
    if output:
        console.print(f"Report: {output}", highlight=False, soft_wrap=True)
