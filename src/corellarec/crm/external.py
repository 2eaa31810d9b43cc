"""A CRM that is not ours: its scores, from a file."""

from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from corellarec.base.errors import DataError
from corellarec.base.frames import ids_of, read_table
from corellarec.config import ExternalConfig
from corellarec.data.log import Log
from corellarec.data.splits import SPLITS
from corellarec.data.times import UTC_TEXT, TimeText, read_times

SMALLEST = 1e-7  # probabilities of 0 and 1 are taken as this far from them


def external_logits(config: ExternalConfig, log: Log, times: TimeText = UTC_TEXT) -> Tensor:
    """``(rows of the log,)`` fp32: the score of each validation and test row as a logit, else NaN.

    Args:
        config: Where the scores are, and of what kind.
        log: The prepared log.
        times: How the times of the log's own file are written; those of the scores may be too.

    Raises:
        DataError: If the file is missing or damaged, a score is no number or no probability, a time
            cannot be read, a row is scored twice, or a validation or test row has no score.
    """
    path = Path(config.scores or "").expanduser()
    table = read_table(path, ("user", "item", "score"))
    table = table.with_columns(logit=score_logits(table, config, path))
    keys = ["user", "item"]
    ours = pl.DataFrame(
        {
            "user": log.users["id"].gather(log.rows["user"]),
            "item": log.items["id"].gather(log.rows["item"]),
            "time": log.rows["time"].dt.epoch("us"),
            "row": pl.int_range(len(log), eager=True),
        }
    ).filter(log.rows["split"] < len(SPLITS), log.rows["split"] > 0)
    if "time" in table.columns:
        keys.append("time")
        table = table.with_columns(read_times(table, str(path), text=times).alias("time"))
    elif (again := ours.select(keys).is_duplicated()).any():
        first = ours.row(int(again.arg_true()[0]), named=True)
        raise DataError(
            f"{path}: no column 'time', and user {first['user']!r} meets item {first['item']!r} "
            "more than once: give the times as well"
        )
    ids = [ids_of(table, side, str(path)).alias(side) for side in keys[:2]]
    table = table.select(*ids, *keys[2:], "logit")
    if (again := table.select(keys).is_duplicated()).any():
        place = int(again.arg_true()[0])
        first = table.row(place, named=True)
        raise DataError(
            f"{path}, row {place + 1}: user {first['user']!r} and item {first['item']!r} are "
            "scored again further down: keep one score for each row of the log"
        )
    found = ours.join(table, on=keys, how="left", maintain_order="left")
    without = found.filter(pl.col("logit").is_null())
    if without.height:
        first = without.row(0, named=True)
        moment = pl.Series([first["time"]]).cast(pl.Datetime("us"))[0]
        raise DataError(
            f"{path}: {without.height:,} of {found.height:,} validation and test rows have no "
            f"score, the first is user {first['user']!r}, item {first['item']!r}, {moment}: score "
            "all that `corellarec data export` writes"
        )
    logits = torch.full((len(log),), float("nan"))
    logits[torch.from_numpy(found["row"].to_numpy().copy())] = torch.from_numpy(
        found["logit"].to_numpy().copy()
    ).float()
    return logits


def score_logits(
    table: pl.DataFrame, config: ExternalConfig, path: Path, first_row: int = 1
) -> pl.Series:
    """The column ``score`` as logits, Float64.

    Raises:
        DataError: If a score is no number, or no probability where it should be.
    """
    score = table["score"].cast(pl.Float64, strict=False)
    bad = ~score.is_finite().fill_null(False)
    wanted = "a number"
    if config.kind == "probability":
        bad |= ~score.is_between(0, 1)
        wanted = "a probability (crm.external.kind = 'logit' takes logits)"
    if bad.any():
        place = int(bad.arg_true()[0])
        found = table["score"][place]
        raise DataError(f"{path}, row {first_row + place}: score {found!r} is not {wanted}")
    if config.kind == "probability":
        p = score.clip(SMALLEST, 1 - SMALLEST)
        score = (p / (1 - p)).log()
    return score
