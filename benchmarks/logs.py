"""The logs that benchmarks read: a prepared one, and a synthetic one of ids alone."""

import argparse
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corellarec.config import Config, load_config
from corellarec.data.log import FeatureLayout, Features, Log
from corellarec.data.prepare import prepare


def add_data_option(parser: argparse.ArgumentParser) -> None:
    """``--data``, which :func:`data_settings` reads."""
    parser.add_argument(
        "--data", help="what data.path takes, such as ml-1m.zip; None is MovieLens, fetched"
    )


def add_set_option(parser: argparse.ArgumentParser) -> None:
    """``--set``, repeatable."""
    parser.add_argument("--set", action="append", default=[], help="a setting, section.key=value")


def data_settings(given: argparse.Namespace) -> list[str]:
    """The settings of ``--data``."""
    return [f"data.path={given.data}"] if given.data else []


def prepared_log(settings: Iterable[str] = (), preset: str | None = None) -> tuple[Config, Log]:
    """The configuration of a preset and settings, and its log, prepared and loaded."""
    config = load_config(preset=preset, settings=settings)
    with tempfile.TemporaryDirectory() as folder:
        prepare(config.data, Path(folder) / "data")
        return config, Log.load(Path(folder) / "data")


def synthetic_log(
    user: NDArray[np.integer], item: NDArray[np.integer], *, users: int, items: int
) -> Log:
    """A log whose users and items have an id and nothing else.

    Labels are random, a row's number is its time, and every tenth row is a validation row.

    Args:
        user: ``(rows,)`` numbers of users, ascending.
        item: ``(rows,)`` numbers of items.
        users: Number of users.
        items: Number of items.
    """
    rows = np.arange(len(user))
    table = pl.DataFrame(
        {
            "user": user.astype(np.int32),
            "item": item.astype(np.int32),
            "label": np.random.default_rng(0).integers(0, 2, len(user)).astype(np.int8),
            "time": pl.Series(rows).cast(pl.Datetime("us")),
            "split": (rows % 10 == 9).astype(np.int8),
        }
    )

    def entities(name: str, count: int) -> pl.DataFrame:
        codes = np.arange(1, count + 1, dtype=np.int32)
        return pl.DataFrame({f"{name}_code": codes, "train_rows": np.ones(count, dtype=np.int64)})

    return Log(
        table,
        entities("user_id", users),
        entities("item_id", items),
        Features(
            user=[FeatureLayout("user_id", users + 1, 1)],
            item=[FeatureLayout("item_id", items + 1, 1)],
        ),
    )
