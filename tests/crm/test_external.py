"""A CRM known by its scores alone."""

import numpy as np
import polars as pl
import pytest
import torch

from corellarec.base.errors import ConfigError, DataError
from corellarec.config import ExternalConfig, load_config
from corellarec.crm.external import external_logits
from corellarec.data.log import Log
from corellarec.data.times import UTC_TEXT, TimeText


@pytest.fixture
def scored(log):
    """The rows of validation and test as `corellarec data export` writes them, with scores."""
    rows = pl.DataFrame(
        {
            "user": log.users["id"].gather(log.rows["user"]),
            "item": log.items["id"].gather(log.rows["item"]),
            "time": log.rows["time"],
            "score": np.random.default_rng(0).uniform(size=len(log)),
        }
    )
    return rows.filter(log.rows["split"].is_in([1, 2]))


def read(log, table, path, kind="probability", times=UTC_TEXT):
    if path.suffix == ".csv":
        table.write_csv(path)
    else:
        table.write_parquet(path)
    return external_logits(ExternalConfig(scores=str(path), kind=kind), log, times)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_scores_find_their_rows_in_any_order(log, scored, tmp_path, suffix):
    shuffled = scored.sample(fraction=1, shuffle=True, seed=1)
    logits = read(log, shuffled, tmp_path / f"s.{suffix}")
    later = (log.split == 1) | (log.split == 2)
    assert logits[~later].isnan().all()
    p = scored["score"].to_torch()
    torch.testing.assert_close(logits[later].double(), p.logit(), atol=1e-5, rtol=1e-5)


def test_logits_are_taken_as_they_are_and_certain_probabilities_stay_finite(log, scored, tmp_path):
    later = (log.split == 1) | (log.split == 2)
    logits = read(log, scored.with_columns(pl.col("score") * 40 - 20), tmp_path / "s.parquet",
                  kind="logit")  # fmt: skip
    torch.testing.assert_close(logits[later], scored["score"].to_torch().float() * 40 - 20)
    certain = scored.with_columns(score=pl.lit(1.0))
    assert read(log, certain, tmp_path / "s.parquet")[later].isfinite().all()


def test_times_may_be_missing_where_pairs_are_unique(log, scored, tmp_path):
    with pytest.raises(DataError, match="more than once: give the times as well"):
        read(log, scored.drop("time"), tmp_path / "s.parquet")
    rows = log.rows.unique(["user", "item"], keep="first", maintain_order=True)
    once = Log(rows, log.users, log.items, log.features)
    scores = scored.sort("time").unique(["user", "item"], keep="first", maintain_order=True)
    timed = read(once, scores, tmp_path / "s.parquet")
    untimed = read(once, scores.drop("time"), tmp_path / "s.parquet")
    torch.testing.assert_close(untimed, timed, equal_nan=True)
    assert untimed.isfinite().sum() == ((once.split == 1) | (once.split == 2)).sum() > 0


def test_times_may_be_written_as_the_logs_own_are(log, scored, tmp_path):
    form = "%d.%m.%Y %H:%M:%S%.6f"
    texts = scored.with_columns(pl.col("time").dt.strftime(form))
    found = read(log, texts, tmp_path / "s.csv", times=TimeText(form))
    exact = read(log, scored, tmp_path / "s.parquet")
    torch.testing.assert_close(found, exact, equal_nan=True)
    with pytest.raises(DataError, match=r"s\.csv, row 1: time '.*' cannot be read as a time"):
        read(log, texts, tmp_path / "s.csv")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop("score"), "no column 'score'"),
        (lambda t: t.with_columns(pl.lit(1.5).alias("score")), "row 1: score 1.5 is not a prob"),
        (lambda t: t.with_columns(pl.lit("x").alias("score")), "row 1: score 'x' is not"),
        (lambda t: t.with_columns(pl.lit(None).alias("score")), "row 1: score None is not"),
        (lambda t: t.tail(-3), "3 of .* validation and test rows have no score, the first is user"),
        (lambda t: pl.concat([t, t.head(1)]), "row 1: user .* are scored again"),
    ],
)
def test_bad_scores(log, scored, tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        read(log, change(scored), tmp_path / "s.parquet")


def test_an_external_crm_needs_a_file():
    with pytest.raises(ConfigError, match=r"needs external\.scores"):
        load_config(settings=["crm.model=external"])
