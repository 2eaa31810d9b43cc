"""What a ranking evaluation found: frozen dataclasses."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import TypeAdapter

from corellarec.base.artifacts import write_sealed
from corellarec.evaluation.parts import Figure


@dataclass(frozen=True)
class RankerRow:
    """Something that ranks, in the table.

    Args:
        kind: ``baseline``, ``crm``, ``cascade`` or ``control``.
        key: Identifies it within the table.
        name: In words.
        asked: Share of the lists that the LLM, or its stand-in, re-ranked, 0 to 1.
        settings: What validation chose for it, if anything.
        metrics: ``ndcg@10`` and so on, for each metric of ``LIST_METRICS`` at each k: the mean over
            users.
        over_reference: The same, minus the reference's for the same users.
        coverage: By k, the share of the candidates that are in at least one user's list.
    """

    kind: str
    key: str
    name: str
    asked: float
    settings: dict[str, float]
    metrics: dict[str, Figure]
    over_reference: dict[str, Figure]
    coverage: dict[int, float]


@dataclass(frozen=True)
class UserGroup:
    """Some of the users.

    Args:
        title: How users are grouped.
        name: Of the group, in words.
        users: How many.
        figures: NDCG at the first k, by key of the table.
        over_reference: The same, minus the reference's.
    """

    title: str
    name: str
    users: int
    figures: dict[str, Figure]
    over_reference: dict[str, Figure]


@dataclass(frozen=True)
class Decision:
    """Whether re-ranking some lists gains on validation.

    Args:
        expert: Who re-ranks: ``llm`` or ``control``.
        budget: Share of lists that may be asked about.
        lists: Validation lists it was fitted on.
        asked: Of these, those that the policy asks about.
        gain: Mean NDCG gained on a list asked about, cross-fitted.
        bound: Its lower bound, 95 % one-sided, users resampled.
        helps: Whether the bound is above zero.
        expert_weight: Weight of the expert's logit where that of the other score is 1.
    """

    expert: str
    budget: float
    lists: int
    asked: int
    gain: float
    bound: float
    helps: bool
    expert_weight: float


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Rankings for the users of a test split.

    Args:
        run: The run's directory.
        k: Places that count.
        users: Users who have a relevant item.
        returning: Of these, users with training rows.
        candidates: Items that had a row when the test split began.
        sampled: Irrelevant candidates for each user, 0 where all items are ranked.
        mask_seen: Whether items that a user has rows of were left out.
        relevant: Relevant items of all users.
        positives: Positive rows of the test split, of the users drawn ...
        new: ... those of items without a row before ...
        seen: ... and those of items that the user had seen, left out.
        retriever: What makes the lists that are re-ranked.
        list_length: Their length.
        reference: Key of the row that the others are compared with.
        table: What ranks.
        groups: By user group.
        decisions: Of re-ranking, for each expert and budget.
        tokens: Tokens that the LLM read for a test list, None where it was not asked.
        seconds: Seconds that it took for a test list.

    Example:
        >>> found.to_frame()["ndcg@10"]  # doctest: +SKIP
    """

    run: str
    k: tuple[int, ...]
    users: int
    returning: int
    candidates: int
    sampled: int
    mask_seen: bool
    relevant: int
    positives: int
    new: int
    seen: int
    retriever: str
    list_length: int
    reference: str
    table: tuple[RankerRow, ...]
    groups: tuple[UserGroup, ...]
    decisions: tuple[Decision, ...] = ()
    tokens: float | None = None
    seconds: float | None = None

    def row(self, key: str) -> RankerRow:
        """The table's row of a key.

        Args:
            key: Such as ``popularity``, ``ease``, ``crm`` or ``cascade``.

        Raises:
            KeyError: If there is none.
        """
        for row in self.table:
            if row.key == key:
                return row
        raise KeyError(f"no ranker {key!r}; there are: {', '.join(row.key for row in self.table)}")

    def to_frame(self) -> pl.DataFrame:
        """The table.

        Returns:
            One row a ranker: ``ranker`` (its key, str), ``name``, ``kind``, ``asked`` (0 to 1), and
            for each metric and k, such as ``ndcg@10``, the columns ``ndcg@10``, ``ndcg@10_low``,
            ``ndcg@10_high`` (95 % interval) and ``ndcg@10_over_reference`` with the same two;
            ``coverage@10``.
        """
        return pl.DataFrame([_flat(row) for row in self.table]).fill_nan(None)

    def save(self, path: str | Path) -> None:
        """Write it as JSON.

        Args:
            path: The file; replaced if it exists.
        """
        text = TypeAdapter(Ranking).dump_json(self, indent=1).decode()
        write_sealed(Path(path), text + "\n")


def _flat(row: RankerRow) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "ranker": row.key,
        "name": row.name,
        "kind": row.kind,
        "asked": row.asked,
    }
    for figures, ending in ((row.metrics, ""), (row.over_reference, "_over_reference")):
        for metric, figure in figures.items():
            name = metric + ending
            facts |= {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high}
    return facts | {f"coverage@{k}": share for k, share in row.coverage.items()}
