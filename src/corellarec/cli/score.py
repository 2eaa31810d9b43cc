"""Batch scoring of Parquet files."""

from functools import partial
from typing import Annotated

import typer

from corellarec.batch import SHARD_ROWS
from corellarec.cli.options import (
    AsJson,
    Device,
    Engine,
    RunDirectory,
    error_console,
    print_json,
    say,
)
from corellarec.cli.predict import (
    CacheSalt,
    Llm,
    OnServerError,
    Server,
    ServerModel,
    ServerTimeout,
    Trust,
)


def add_to(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(score)


def score(
    run: RunDirectory,
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="Parquet with columns user and item: a file, a directory, a pattern in quotes, or "
            "a URL of one (s3://, gs://, abfs://; needs corellarec\\[cloud]).",
        ),
    ],
    output: Annotated[
        str,
        typer.Argument(metavar="OUTPUT", help="Directory of the Parquet files to write, or a URL."),
    ],
    engine: Annotated[
        Engine,
        typer.Option(
            help="local: processes of this machine; ray: actors of the cluster that RAY_ADDRESS "
            "names, or of a new one here (needs corellarec\\[ray])."
        ),
    ] = Engine.LOCAL,
    workers: Annotated[
        int, typer.Option(min=1, help="How many; each loads the models. At most one for each core.")
    ] = 1,
    shard_rows: Annotated[
        int, typer.Option(min=1, help="Rows of an output file, about; they bound the memory.")
    ] = SHARD_ROWS,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Say what it would take, from a small measured sample; write nothing."
        ),
    ] = False,
    price_per_hour: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="What all machines of the job cost an hour: then the price is said, before "
            "(--dry-run), on the way and after.",
        ),
    ] = None,
    device: Device = "auto",
    server: Server = None,
    server_model: ServerModel = "corellarec",
    cache_salt: CacheSalt = None,
    server_timeout: ServerTimeout = 120.0,
    server_job_timeout: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="What all requests for a shard may take."),
    ] = 3600.0,
    on_server_error: Annotated[
        OnServerError,
        typer.Option(
            help="Where the server fails: fail stops, to go on later; crm keeps the CRM's answers "
            "and says how many."
        ),
    ] = OnServerError.FAIL,
    trust: Trust = None,
    llm: Llm = None,
    as_json: AsJson = False,
) -> None:
    """Score Parquet files of any size: the CRM on all rows, the LLM on the best of the whole job.

    The columns are those of `predict`. OUTPUT gets one file a shard of users, and _SUCCESS at the
    end. Whatever stops the command, the same command goes on where it stopped.
    """
    from corellarec.base.console import Display, say_warnings
    from corellarec.batch.estimate import estimate
    from corellarec.batch.score import score as score_job
    from corellarec.batch.source import check_output, input_files
    from corellarec.cascade.cascade import Cascade

    load = partial(
        Cascade.load,
        run.absolute(),  # other processes may be elsewhere
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
    display = Display(error_console(), quiet=as_json)
    if dry_run:
        files = input_files(source)
        check_output(files, output)
        found = estimate(load(), files, shard_rows, workers, price_per_hour, server is None)
        if as_json:
            print_json(found.facts())
        else:
            for line in [*found.lines(), "Nothing was written."]:
                say(line)
        return
    done = score_job(
        load,
        run,
        source,
        output,
        engine=engine.value,
        workers=workers,
        shard_rows=shard_rows,
        price_per_hour=price_per_hour,
        ask=server is None,
        display=display,
    )
    if done.unanswered:
        warning = (
            f"the server did not answer {done.unanswered:,} rows that were routed to it, and they "
            "have the CRM's answer (--on-server-error fail stops there instead)"
        )
        say_warnings(error_console(), [warning])
    if as_json:
        print_json(done)
        return
    unknown = done.unknown_users
    say(
        f"{done.rows:,} rows scored into {done.shards:,} files of {done.output}; the LLM answered "
        f"{done.routed:,}"
        + (f"; {unknown:,} rows have a user that the log does not know" if unknown else "")
    )
    say(done.took())
