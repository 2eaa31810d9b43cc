"""Files of pairs, scored batch by batch, in memory that does not grow with the file."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import polars as pl
from polars.io.plugins import register_io_source

from corellarec.base.errors import CorellarecError, DataError
from corellarec.base.frames import readable, require_columns, scan_table
from corellarec.cascade.cascade import Cascade
from corellarec.cascade.tables import OUTPUT_COLUMNS, numbers_of
from corellarec.data.files import check_name, write_table

BATCH = 100_000  # pairs scored at once


@dataclass(frozen=True)
class FileScored:
    """What was scored.

    Args:
        pairs: Rows of the file.
        unknown_users: Rows whose user the log does not know.
        routed: Rows that the language model answered.
        output: The file that was written.
        unanswered: Rows that a failing server left to the CRM.
        server_error: Why; None where there are none.
    """

    pairs: int
    unknown_users: int
    routed: int
    output: str
    unanswered: int = 0
    server_error: str | None = None


def predict_file(
    cascade: Cascade,
    source: Path,
    output: Path,
    progress: Callable[[int], None] = lambda scored: None,
    names: Mapping[str, str] = MappingProxyType({}),
) -> FileScored:
    """Score the pairs of a CSV or Parquet file into another, which appears whole or not at all.

    Args:
        cascade: Scores them; its budget holds over the whole file.
        source: A table as :meth:`Cascade.predict` takes it.
        output: Ends in ``.csv`` or ``.parquet``; replaced if it exists.
        progress: Called after each batch with the number of pairs scored so far.
        names: What the file may call the columns ``user``, ``item`` and ``time`` otherwise.

    Raises:
        DataError: If the input cannot be used, or is the output; nothing is written then.
    """
    check_name(output)
    if output.exists() and output.samefile(source):
        raise DataError(f"{output} is the input: give the output another name")
    table = scan_table(source)
    schema = dict(table.collect_schema())
    ours = {theirs: our for our, theirs in names.items() if our not in schema and theirs in schema}
    table = table.rename(ours)
    require_columns(table.head(0).collect(), str(source), ("user", "item"))
    schema |= dict.fromkeys(OUTPUT_COLUMNS, pl.Float64) | {"source": pl.String}
    if cascade.log.negatives:
        schema["p_next"] = pl.Float64()
    pairs = unknown = routed = 0
    before = cascade.models.unanswered
    failure: Exception | None = None

    def scored(*_: object) -> Iterator[pl.DataFrame]:
        nonlocal pairs, unknown, routed, failure
        try:
            for batch in _batches(table, source):
                found = cascade.predict(batch, name=str(source), first_row=pairs + 1)
                pairs += found.height
                users = found["user"].cast(pl.String)
                unknown += int((numbers_of(users, cascade.log.users) == -1).sum())
                routed += int((found["source"] != "crm").sum())
                progress(pairs)
                found = found.rename({our: theirs for theirs, our in ours.items()})
                yield found.select(list(schema))
        except Exception as error:
            failure = error
            raise

    frame = register_io_source(scored, schema=schema, is_pure=False)
    try:
        write_table(frame, output)
    except CorellarecError:
        if failure is not None:  # polars wraps what is raised in a source
            raise failure from None
        raise
    unanswered = cascade.models.unanswered - before
    reason = cascade.models.server_error if unanswered else None
    return FileScored(pairs, unknown, routed, str(output), unanswered, reason)


def _batches(table: pl.LazyFrame, source: Path) -> Iterator[pl.DataFrame]:
    with readable(source):
        yield from table.collect_batches(chunk_size=BATCH, maintain_order=True)
