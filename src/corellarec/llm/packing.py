"""Batches of sequences: packed without padding, or padded for models that cannot be packed."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from corellarec.llm.attention import Block
from corellarec.llm.layout import TokenSequence


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

    What neighbouring sequences continue is read once in a packed row. A sequence longer than the
    budget is a batch of its own.

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
    groups, tokens = [], 0
    context: TokenSequence | None = None
    for sequence in sequences:
        fresh = sequence.after is not None and sequence.after is not context
        cost = sequence.length if fresh else len(sequence.ids)
        if groups and tokens + cost <= tokens_per_batch:
            groups[-1].append(sequence)
            tokens += cost
        else:
            groups.append([sequence])
            tokens = sequence.length
        context = sequence.after
    return groups


def make_batch(sequences: Sequence[TokenSequence], *, packed: bool) -> LlmBatch:
    """One batch of some sequences, packed or padded."""
    if not packed:
        return _padded([one.whole() for one in sequences])
    row = _Row()
    for sequence in sequences:
        row.add(sequence)
    return row.batch()


@dataclass
class _Row:
    """A packed row that is being filled."""

    sequences: list[TokenSequence] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    tokens: int = 0
    context: TokenSequence | None = None

    def add(self, sequence: TokenSequence) -> None:
        """Put it at the end, after what it continues."""
        if sequence.after is not None and sequence.after is not self.context:
            self._append(sequence.after)
            self.blocks.append(Block(self.tokens, (), (self.starts[-1], self.tokens)))
        self.context = sequence.after
        self._append(sequence)

    def _append(self, sequence: TokenSequence) -> None:
        length = len(sequence.ids)
        if sequence.after is None:
            self.blocks.append(Block(self.tokens, (length,)))
        else:
            self.blocks[-1] = replace(self.blocks[-1], lengths=(*self.blocks[-1].lengths, length))
        self.sequences.append(sequence)
        self.starts.append(self.tokens)
        self.tokens += length

    def batch(self) -> LlmBatch:
        """The row as tensors."""
        begins = [len(s.after.ids) if s.after else 0 for s in self.sequences]
        position = [
            np.arange(begin, begin + len(s.ids))
            for begin, s in zip(begins, self.sequences, strict=True)
        ]
        places = [s.places + start for start, s in zip(self.starts, self.sequences, strict=True)]
        place = torch.from_numpy(np.concatenate(places))
        return LlmBatch(
            ids=torch.from_numpy(np.concatenate([s.ids for s in self.sequences])).unsqueeze(0),
            position=torch.from_numpy(np.concatenate(position)).unsqueeze(0),
            row=torch.zeros_like(place),
            place=place,
            sample=torch.from_numpy(np.concatenate([s.samples for s in self.sequences])),
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
