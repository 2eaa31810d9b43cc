"""Tokens for a language model, and where they are answered."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TokenSequence:
    """Tokens for one pass of the model, and the positions that are answered.

    Args:
        ids: ``(length,)`` int64 token ids.
        places: ``(answers,)`` positions whose next token is the answer.
        samples: ``(answers,)`` index of the sample that each place answers.
        after: The sequence whose beginning these tokens continue, and perhaps others'. It continues
            none itself, and is answered only where it is passed to the model as well.
        shared: How many of its tokens they continue; all by default.

    Example:
        >>> stream = TokenSequence(np.array([3, 4, 7]), np.array([2]), np.array([0]))
        >>> one = TokenSequence(np.array([5, 9]), np.array([1]), np.array([1]), stream, shared=2)
        >>> one.whole().ids.tolist(), one.whole().places.tolist()
        ([3, 4, 5, 9], [3])
    """

    ids: NDArray[np.int64]
    places: NDArray[np.int64]
    samples: NDArray[np.int64]
    after: "TokenSequence | None" = None
    shared: int | None = None

    @property
    def trunk(self) -> "TokenSequence":
        """The sequence that it continues; itself where it continues none."""
        return self if self.after is None else self.after

    @property
    def begin(self) -> int:
        """Position of the first of its tokens."""
        if self.after is None:
            return 0
        return len(self.after.ids) if self.shared is None else self.shared

    @property
    def length(self) -> int:
        """Number of tokens, those that it continues included."""
        return self.begin + len(self.ids)

    def whole(self) -> "TokenSequence":
        """The same sequence with the tokens that it continues joined to it."""
        if self.after is None:
            return self
        ids = np.concatenate([self.after.ids[: self.begin], self.ids])
        return TokenSequence(ids, self.places + self.begin, self.samples)


def context(ids: list[int]) -> TokenSequence:
    """Tokens that other sequences continue, without answers."""
    return TokenSequence(np.array(ids), np.zeros(0, np.int64), np.zeros(0, np.int64))


def tokens_read(sequences: Iterable[TokenSequence]) -> int:
    """Tokens of sequences and of what they continue, which is read once."""
    read = {id(one): len(one.ids) for own in sequences for one in (own, own.trunk)}
    return sum(read.values())
