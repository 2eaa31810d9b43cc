"""Batches of sequences: packed without padding, or padded for models that cannot be packed."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corellarec.llm.attention import Block, add_block
from corellarec.llm.sequence import TokenSequence


@dataclass(frozen=True)
class LlmBatch:
    """Sequences for one pass of the model.

    Args:
        ids: ``(rows, length)`` int64: one packed row, or rows padded at the right.
        position: ``(rows, length)`` int64, each token's place in its sequence.
        row, place: ``(answers,)`` where the answers stand.
        sample: ``(answers,)`` index of the sample that each answers.
        tokens: Number of tokens without padding.
        blocks: What each token of a packed row attends to; None where rows are padded.
    """

    ids: Tensor
    position: Tensor
    row: Tensor
    place: Tensor
    sample: Tensor
    tokens: int
    blocks: tuple[Block, ...] | None = None


def make_batches(
    sequences: Sequence[TokenSequence], tokens_per_batch: int, *, packed: bool
) -> list[LlmBatch]:
    """Group sequences so that no batch holds more tokens than the budget.

    What neighbouring sequences continue is read once in a packed row, and they share a batch where
    they fit one. A sequence longer than the budget is a batch of its own.

    Args:
        sequences: In the order in which they are packed.
        tokens_per_batch: The budget; padding counts.
        packed: Whether the model can read packed rows; otherwise similar lengths, longest first,
            are padded.
    """
    groups = group(sequences, tokens_per_batch, packed=packed)
    return [make_batch(one, packed=packed) for one in groups]


def group(
    sequences: Sequence[TokenSequence], tokens_per_batch: int, *, packed: bool
) -> list[list[TokenSequence]]:
    """The sequences of each batch of :func:`make_batches`."""
    if not packed:
        ordered = sorted(sequences, key=lambda s: -s.length)
        groups, start = [], 0
        while start < len(ordered):
            size = max(1, tokens_per_batch // ordered[start].length)
            groups.append(ordered[start : start + size])
            start += size
        return groups
    groups, left = [], 0
    for family in families(sequences):
        trunk = family[0].trunk
        costs = [0 if one is trunk else len(one.ids) for one in family]
        whole = len(trunk.ids) + sum(costs)
        if whole <= left:
            groups[-1].extend(family)
            left -= whole
            continue
        groups.append([])
        left = tokens_per_batch - len(trunk.ids)
        for one, cost in zip(family, costs, strict=True):
            if groups[-1] and cost > left:
                groups.append([])
                left = tokens_per_batch - len(trunk.ids)
            groups[-1].append(one)
            left -= cost
    return groups


def families(sequences: Sequence[TokenSequence]) -> list[list[TokenSequence]]:
    """Neighbours that share a trunk, together."""
    return [list(family) for _, family in groupby(sequences, lambda one: id(one.trunk))]


def make_batch(sequences: Sequence[TokenSequence], *, packed: bool) -> LlmBatch:
    """One batch of some sequences, packed or padded."""
    if not packed:
        return _padded([one.whole() for one in sequences])
    row = _Row()
    for sequence in sequences:
        row.add(sequence)
    return row.batch()


class _Row:
    """A packed row that is being filled."""

    def __init__(self) -> None:
        self.ids: list[NDArray[np.int64]] = []
        self.positions: list[NDArray[np.int64]] = []
        self.places: list[NDArray[np.int64]] = []
        self.samples: list[NDArray[np.int64]] = []
        self.blocks: list[Block] = []
        self.trunk: TokenSequence | None = None
        self.tokens = self.trunk_start = 0

    def add(self, sequence: TokenSequence) -> None:
        """Put it at the end, after its trunk where that is not there yet."""
        if sequence.trunk is not self.trunk:
            self.trunk, self.trunk_start = sequence.trunk, self.tokens
            self._append(self.trunk.ids, 0, ())
        start = self.trunk_start
        if sequence.after is not None:
            start = self.tokens
            self._append(sequence.ids, sequence.begin, (sequence.begin,))
        self.places.append(sequence.places + start)
        self.samples.append(sequence.samples)

    def _append(self, ids: NDArray[np.int64], begin: int, reads: tuple[int, ...]) -> None:
        add_block(self.blocks, Block(self.tokens, (len(ids),), self.trunk_start, reads))
        self.ids.append(ids)
        self.positions.append(np.arange(begin, begin + len(ids)))
        self.tokens += len(ids)

    def batch(self) -> LlmBatch:
        """The row as tensors."""
        ids, position, place, sample = (
            torch.from_numpy(np.concatenate(parts))
            for parts in (self.ids, self.positions, self.places, self.samples)
        )
        return LlmBatch(
            ids=ids.unsqueeze(0),
            position=position.unsqueeze(0),
            row=torch.zeros_like(place),
            place=place,
            sample=sample,
            tokens=self.tokens,
            blocks=tuple(self.blocks),
        )


def _padded(sequences: Sequence[TokenSequence]) -> LlmBatch:
    ids = np.zeros((len(sequences), max(len(s.ids) for s in sequences)), dtype=np.int64)
    for i, sequence in enumerate(sequences):
        ids[i, : len(sequence.ids)] = sequence.ids
    rows = np.repeat(np.arange(len(sequences)), [len(s.places) for s in sequences])
    return LlmBatch(
        ids=torch.from_numpy(ids),
        position=torch.arange(ids.shape[1]).expand(ids.shape),
        row=torch.from_numpy(rows),
        place=torch.from_numpy(np.concatenate([s.places for s in sequences])),
        sample=torch.from_numpy(np.concatenate([s.samples for s in sequences])),
        tokens=sum(len(s.ids) for s in sequences),
    )
