"""Rows of a split scored by both models; the language model's scores are kept."""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import polars as pl
import torch
from torch import Tensor

from corellarec.base.artifacts import writing
from corellarec.base.metrics import Floats
from corellarec.base.stored import read_stored
from corellarec.cascade.policy import Known, known
from corellarec.cascade.scores import Scores
from corellarec.llm.score import Cost
from corellarec.run.records import read_step
from corellarec.run.stages import chunk_rows, drawn_rows
from corellarec.run.weights import final_crm_logits, load_tuned_adapter
from corellarec.run.workspace import Workspace
from corellarec.train.stages import draw_rows, take

PIECE = 20_000  # rows scored between two writings
COLUMNS = {"row": pl.Int64(), "llm_logit": pl.Float32()}
Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class ScoredRows:
    """Rows of a split that both models scored.

    Args:
        rows: ``(n,)`` int64 row numbers of the log.
        scores: Both models' logits, and the labels.
        cost: What the language model's part took.
    """

    rows: Tensor
    scores: Scores
    cost: Cost


def score(workspace: Workspace, split: Split, count: int) -> Cost:
    """Let the language model score random rows of a split, or find them scored.

    Processes share the rows, and all of them must call it.

    Args:
        workspace: The run.
        split: Of ``test`` no label is read; of ``train`` those rows are scored that no stage tuned
            the language model on, if there are such.
        count: Rows, drawn as chunks of one user's; 0 is all.
    """
    directory = workspace.directory / "scores" / split
    key = workspace.key("scores", split, count)
    facts = workspace.done(directory, key)
    if facts is not None:
        return Cost(**facts["cost"])
    rows = rows_to_score(workspace, split, count)
    pieces = directory.with_name(f"{split}.pieces")
    title = f"LLM scores {len(rows):,} {split} rows"
    with workspace.display.counting(title, len(rows)) as answered:
        parts = [
            _score_piece(workspace, pieces / str(number), f"{key} {number}", part, answered)
            for number, part in enumerate(rows.split(PIECE))
        ]
    cost = Cost(
        samples=sum(one.samples for _, one in parts),
        tokens=sum(one.tokens for _, one in parts),
        seconds=sum(one.seconds for _, one in parts),
    )
    workspace.accelerator.wait_for_everyone()  # all have read the pieces
    if workspace.accelerator.is_main_process:
        facts = {"kind": "scores", "key": key, "cost": asdict(cost)}
        with writing(directory, facts) as unfinished:
            pl.concat([frame for frame, _ in parts]).write_parquet(unfinished / "scores.parquet")
        shutil.rmtree(pieces)
    workspace.accelerator.wait_for_everyone()
    return cost


def rows_to_score(workspace: Workspace, split: Split, count: int) -> Tensor:
    """``(n,)`` int64: the rows that :func:`score` takes; of ``test`` the same for every seed."""
    seed = 0 if split == "test" else workspace.config.seed
    chunks = draw_rows(workspace.log, split, chunk_rows(workspace), seed)
    if split == "train":  # of rows it was tuned on the LLM would repeat the labels
        chunks = drawn_rows(workspace, 3)[1] or chunks
    return take(chunks, count or len(workspace.log))[0]


def _score_piece(
    workspace: Workspace,
    directory: Path,
    key: str,
    rows: Tensor,
    answered: Callable[[int], None],
) -> tuple[pl.DataFrame, Cost]:
    """The language model's logits of some rows, kept until all are there."""
    facts = read_step(directory, key)
    if facts is not None:
        answered(len(rows))
        return read_stored(directory / "scores.parquet", COLUMNS), Cost(**facts["cost"])
    load_tuned_adapter(workspace)
    cost = workspace.scorer.cost = Cost()
    logit = workspace.scorer.logits(workspace.log.samples(rows), answered)
    frame = pl.DataFrame({"row": rows.numpy(), "llm_logit": logit.numpy()}, schema=COLUMNS)
    if workspace.accelerator.is_main_process:
        facts = {"kind": "scores", "key": key, "cost": asdict(cost)}
        with writing(directory, facts) as unfinished:
            frame.write_parquet(unfinished / "scores.parquet")
    return frame, cost


def scored_rows(workspace: Workspace, split: Split, count: int) -> ScoredRows:
    """Both models' logits and the labels of the rows that :func:`score` takes."""
    cost, log = score(workspace, split, count), workspace.log
    rows, llm_logit = llm_logits(workspace, split)
    label = log.test_labels(rows, "evaluate") if split == "test" else log.labels(rows)
    scores = Scores(
        user=log.user[rows].long().numpy(),
        label=label.numpy(),
        known=known_of(workspace, rows),
        llm_logit=llm_logit,
    )
    return ScoredRows(rows, scores, cost)


def llm_logits(workspace: Workspace, split: Split) -> tuple[Tensor, Floats]:
    """``(n,)`` rows of a split that the language model scored, and its logits."""
    path = workspace.directory / "scores" / split / "scores.parquet"
    table = read_stored(path, COLUMNS)
    rows = torch.from_numpy(table["row"].to_numpy().copy())
    return rows, table["llm_logit"].cast(pl.Float64).to_numpy()


def known_of(workspace: Workspace, rows: Tensor) -> Known:
    """What is known of log rows before the language model is asked."""
    logit = final_crm_logits(workspace, rows).double().numpy()
    samples = workspace.log.samples(rows)
    return known(workspace.log, samples, logit, workspace.config.crm.history_length)
