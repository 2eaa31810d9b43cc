"""Users kept between requests: their lines stay read, and a candidate costs one short line."""

from collections.abc import Hashable, Sequence

import numpy as np
import torch
from cachetools import LRUCache
from numpy.typing import NDArray
from torch import Tensor

from corellarec.llm.attention import Block, KeyValues, Plan, add_block
from corellarec.llm.layout import StreamLayout
from corellarec.llm.load import AnswerModel

Line = tuple[int, int, int]  # item, answer, rating digit


class UserState:
    """One user's lines as the model has read them.

    Args:
        model: A model that reads packed rows.
        layout: The stream.
        user: The user's number in the log, -1 for one who is not there; for the heading.

    Attributes:
        lines: Item, answer and rating digit of the lines that are in the state, oldest first.
        rows: Rows of the caller's history that have been read, those no longer in the state too.
        tokens: Tokens computed so far.

    Raises:
        ValueError: If the model does not read packed rows.

    Example:
        >>> state = UserState(model, layout)  # doctest: +SKIP
        >>> state.extend(items=[12, 7], answers=[1, 0])  # doctest: +SKIP
        >>> state.score([3, 44])  # doctest: +SKIP
        tensor([ 0.3127, -1.2046])
    """

    def __init__(self, model: AnswerModel, layout: StreamLayout, user: int = -1) -> None:
        if not model.packs:
            raise ValueError("this language model cannot read packed rows: score it in bulk")
        self.model, self.layout, self.user = model, layout, user
        self.lines: list[Line] = []
        self.rows = self.tokens = 0
        self.past = KeyValues()

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values."""
        return self.past.nbytes

    def extend(
        self, items: Sequence[int], answers: Sequence[int], liked: Sequence[int] | None = None
    ) -> None:
        """Read further lines; only these are computed.

        Where they would make more than the layout's window, the state starts again from the last
        ``history_length`` lines, as the stream layout's next sequence does.

        Args:
            items: Numbers in the item table, oldest first.
            answers: Numbers of the layout's answers, as :meth:`StreamLayout.said` gives them.
            liked: The lines' rating digits; by default those of the whole training split.
        """
        if liked is None:
            liked = [int(self.layout.items_liked[item]) for item in items]
        fresh = list(zip(items, answers, liked, strict=True))
        lines = [*self.lines, *fresh]
        if len(lines) >= self.layout.window:
            fresh = lines = lines[-self.layout.history_length :]
            self.past = KeyValues()
        ids = [] if len(self.past) else list(self.layout.header(self.user))
        for item, answer, digit in fresh:
            ids += [*self.layout.line(item, digit), *self.layout.end(answer)]
        if ids:
            self._read(np.array(ids), (len(ids),), keep=True)
        self.lines = lines

    def score(self, items: Sequence[int]) -> Tensor:
        """``(n,)`` fp32 on the CPU: logit(yes) - logit(no) of candidates, all in one pass.

        Args:
            items: Numbers in the item table.
        """
        if not len(self.past):
            self.extend([], [])
        if not len(items):
            return torch.zeros(0)
        lines = [self.layout.line(item) for item in items]
        lengths = tuple(len(line) for line in lines)
        last = self._read(np.concatenate(lines), lengths, keep=False)
        return self.model.answer(last[torch.tensor(lengths).cumsum(0) - 1]).cpu()

    @torch.inference_mode()
    def _read(self, ids: NDArray[np.int64], lengths: tuple[int, ...], *, keep: bool) -> Tensor:
        """Last hidden states of sequences side by side, each after what was read before."""
        device, before = self.model.base.device, len(self.past)
        position = np.concatenate([np.arange(before, before + length) for length in lengths])
        blocks: list[Block] = []
        for start, length in zip(np.cumsum([0, *lengths]).tolist(), lengths, strict=False):
            add_block(blocks, Block(start, (length,), 0, (before,)))
        self.tokens += len(ids)
        self.model.eval()
        out = self.model.base.get_decoder()(
            input_ids=torch.from_numpy(ids).unsqueeze(0).to(device),
            position_ids=torch.from_numpy(position).unsqueeze(0).to(device),
            use_cache=False,
            plan=Plan(blocks, self.past, keep),
        )
        return out.last_hidden_state[0]


class UserStates:
    """States of the users scored last, within a budget of memory.

    A state is only a copy of what the caller's history says: it is extended where the history
    has grown, made again where it has changed, and nothing is lost when it is evicted.

    Args:
        model: A model that reads packed rows.
        layout: The stream.
        max_bytes: Most bytes of keys and values; the least recently used go first. The one being
            scored stays, even where it is larger on its own.

    Attributes:
        tokens: Tokens computed so far.
    """

    def __init__(self, model: AnswerModel, layout: StreamLayout, max_bytes: int) -> None:
        self.model, self.layout = model, layout
        self.tokens, max_bytes = 0, max(1, max_bytes)
        self.states: LRUCache[Hashable, UserState] = LRUCache(
            max_bytes,
            # A cache refuses what is larger than itself; this way it is all there is.
            getsizeof=lambda state: min(state.nbytes, max_bytes),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all states; of one that is larger than the budget, the budget."""
        return int(self.states.currsize)

    def score(
        self,
        key: Hashable,
        items: Sequence[int],
        answers: Sequence[int],
        candidates: Sequence[int],
        user: int = -1,
        liked: Sequence[int] | None = None,
    ) -> Tensor:
        """``(candidates,)`` logits after a user's history.

        Args:
            key: Identifies whose state it is.
            items: The whole history as item numbers, oldest first.
            answers: Numbers of the layout's answers, as :meth:`StreamLayout.said` gives them.
            candidates: Item numbers.
            user: The user's number in the log, for the heading.
            liked: The history's rating digits; by default those of the whole training split.
        """
        if liked is None:
            liked = [int(self.layout.items_liked[item]) for item in items]
        state = self.states.pop(key, None)
        if state is not None:
            read = slice(state.rows - len(state.lines), state.rows)
            lines = list(zip(items[read], answers[read], liked[read], strict=True))
            if state.user != user or lines != state.lines:
                state = None
        if state is None:
            state = UserState(self.model, self.layout, user)
            state.rows = max(0, len(items) - self.layout.history_length)
        before, new = state.tokens, slice(state.rows, None)
        state.extend(items[new], answers[new], liked[new])
        state.rows = len(items)
        logits = state.score(candidates)
        self.tokens += state.tokens - before
        self.states[key] = state  # now that it has its size
        return logits
