"""Labelled rows scored by both models of a cascade."""

import polars as pl
import torch

from corellarec.base.errors import DataError
from corellarec.base.frames import Table, as_frame
from corellarec.cascade.cascade import Cascade
from corellarec.cascade.policy import known
from corellarec.cascade.scores import Scores
from corellarec.cascade.tables import read_events
from corellarec.crm.build import build_reader


def score_labelled(cascade: Cascade, table: Table, rows: int = 0, seed: int = 0) -> Scores:
    """Both models' raw logits of labelled rows, all of them scored by both.

    The rows are sorted in by time; each has the user's earlier ones as its history.

    Args:
        cascade: Both models, and the log; it stays as it is.
        table: ``user``, ``item``, ``label`` or ``rating``, and ``time``.
        rows: Random rows to score; 0 is all.
        seed: Of the draw.

    Raises:
        DataError: If a column is missing, a value cannot be used, or an item is not known.
    """
    recipe, models, log = cascade.recipe, cascade.models, cascade.log
    if models.crm is None:
        raise DataError("this cascade's CRM is external: measure it with `audit`")
    test = as_frame(table, "test", ("user", "item", "time"))
    given, users = read_events(log, test, recipe.positive_rating, "test", recipe.times)
    log = log.extended(given, users, log.items)
    if rows and rows < given.height:
        given = given.sample(rows, seed=seed)
    keys = ["user", "item", "time"]
    found = log.rows.select(*keys, row=pl.int_range(pl.len())).join(
        given.unique(keys), on=keys, maintain_order="left"
    )
    row = torch.from_numpy(found["row"].to_numpy().copy())
    samples = log.samples(row)
    crm_logit = models.crm_logits(build_reader(recipe.crm, log, models.device), samples)
    return Scores(
        user=samples.user.numpy(),
        label=found["label"].to_numpy(),
        known=known(log, samples, crm_logit, recipe.crm.history_length),
        llm_logit=models.llm_logits(log, samples),
    )
