"""How users become tokens: the stream layout and the paper's one prompt per sample."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from corellarec.config import LlmConfig
from corellarec.data.log import Log, Samples
from corellarec.errors import ModelError

MAX_TITLE_LENGTH = 200
UNTITLED = "(untitled)"
# Everything that could break a line, hide text, or turn its direction.
_UNPRINTABLE = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff]+")


def clean_title(title: str, *, year: bool = True) -> str:
    """A title as one printable line of at most 200 characters that cannot pose as an answer.

    Args:
        title: Any text; where nothing printable is in it, ``(untitled)`` stands for it.
        year: Whether a year in brackets at the end stays.
    """
    title = _UNPRINTABLE.sub(" ", title).replace("->", "-").strip()
    if not year:
        title = re.sub(r"(?<=.) \(\d{4}\)$", "", title)
    return title[:MAX_TITLE_LENGTH] or UNTITLED


@dataclass(frozen=True)
class TokenSequence:
    """Tokens for one pass of the model, and where it is to answer.

    Args:
        ids: ``(length,)`` int64 token ids.
        places: ``(answers,)`` positions whose next token is the answer.
        samples: ``(answers,)`` index of the sample that each place answers.
    """

    ids: NDArray[np.int64]
    places: NDArray[np.int64]
    samples: NDArray[np.int64]


class Text:
    """Encodes pieces of text on their own, so that pieces can be joined in any order.

    Args:
        tokenizer: The model's.

    Raises:
        ModelError: If an answer is not a single token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    def __call__(self, text: str, *, start: bool = False) -> list[int]:
        """Token ids of ``text``, in which special tokens are plain text.

        Args:
            text: Any text.
            start: Whether to put first what the model wants at the beginning of a sequence.
        """
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return [*self.tokenizer("")["input_ids"], *ids] if start else list(ids)

    def after(self, before: str, text: str) -> list[int]:
        """Token ids that ``text`` adds when it follows ``before``."""
        prefix, whole = self(before), self(before + text)
        if whole[: len(prefix)] != prefix:
            raise ModelError(f"the tokenizer joins {before!r} and {text!r}: it cannot be used here")
        return whole[len(prefix) :]

    def answer(self, before: str, text: str) -> int:
        """The single token that ``text`` is after ``before``."""
        ids = self.after(before, text)
        if len(ids) != 1:
            raise ModelError(
                f"the tokenizer splits the answer {text!r} into {len(ids)} tokens; one is needed"
            )
        return ids[0]


class Layout(Protocol):
    """Samples in, sequences of tokens out."""

    answers: tuple[int, int]
    """Token ids of no and yes."""

    def encode(self, samples: Samples) -> list[TokenSequence]:
        """Sequences that together answer every sample once."""
        ...


class StreamLayout:
    """A user is one stream of lines, ``title -> Yes`` or ``title -> No``, answered at every arrow.

    Args:
        log: The prepared log, whose rows are the lines.
        tokenizer: The model's.
        history_length: Lines before an answered line, at least, where the user has them.
        window: Lines in one sequence at most.
        title_year: Whether titles keep their year.
        heading: The line before the user's lines.
    """

    def __init__(
        self,
        log: Log,
        tokenizer: PreTrainedTokenizerBase,
        history_length: int,
        window: int,
        title_year: bool = True,
        heading: str = "Movies a user rated, in order, and whether the user liked each:",
    ) -> None:
        self.heading = heading
        self.history_length, self.window = history_length, window
        self.log, self.titles = log, [clean_title(title, year=title_year) for title in log.titles]
        self.text = Text(tokenizer)
        self.answers = (
            self.text.answer("x ->", " No"),
            self.text.answer("x ->", " Yes"),
        )
        self.newline = self.text.after("x -> Yes", "\n")

    @cached_property
    def header(self) -> list[int]:
        """Tokens before the first line."""
        return self.text(self.heading + "\n", start=True)

    @cached_property
    def lines(self) -> list[list[int]]:
        """Tokens of each item's line up to its arrow."""
        return [self.text(f"{title} ->") for title in self.titles]

    def encode(self, samples: Samples) -> list[TokenSequence]:
        """Sequences that together answer every sample once.

        Samples that are history rows themselves share sequences with the user's other rows; any
        other gets its own, as the line after its history.
        """
        user, item, begin, end = (
            column.numpy() for column in (samples.user, samples.item, samples.begin, samples.end)
        )
        rows = len(self.log.history_user)
        at = np.minimum(end, rows - 1)
        in_log = (
            (end < rows)
            & (self.log.history_user.numpy()[at] == user)
            & (self.log.history_item.numpy()[at] == item)
        )
        sequences = []
        order = np.flatnonzero(in_log)
        order = order[np.argsort(end[order], kind="stable")]
        first = 0
        while first < len(order):
            start = max(int(begin[order[first]]), int(end[order[first]]) - self.history_length)
            after = first
            while (
                after < len(order)
                and user[order[after]] == user[order[first]]
                and end[order[after]] < start + self.window
            ):
                after += 1
            answered = order[first:after]
            rows = np.arange(start, int(end[answered[-1]]) + 1)
            sequences.append(self._sequence(rows, None, end[answered] - start, answered))
            first = after
        for sample in np.flatnonzero(~in_log):
            first, last = int(begin[sample]), int(end[sample])
            rows = np.arange(max(first, last - self.history_length), last)
            answered = np.array([sample])
            sequences.append(self._sequence(rows, item[sample], np.array([len(rows)]), answered))
        return sequences

    def _sequence(
        self,
        rows: NDArray[np.int64],
        extra_item: int | None,
        lines: NDArray[np.int64],
        samples: NDArray[np.int64],
    ) -> TokenSequence:
        """The sequence of log ``rows`` and perhaps one more item, answered at ``lines``."""
        ids, places = list(self.header), []
        items = self.log.history_item.numpy()[rows]
        labels = self.log.history_label.numpy()[rows]
        for item, label in zip(items, labels, strict=True):
            ids += self.lines[item]
            places.append(len(ids) - 1)
            ids += [self.answers[label], *self.newline]
        if extra_item is not None:
            ids += self.lines[extra_item]
            places.append(len(ids) - 1)
        ids = ids[: places[-1] + 1]  # nothing after the last answered arrow is read
        return TokenSequence(np.array(ids), np.array(places)[lines], samples)


class PaperLayout:
    """CoReLLa's prompt: one sample, its history and the question, answered at the end.

    Args:
        log: The prepared log.
        tokenizer: The model's.
        history_length: Most items of history in a prompt.
        title_year: Whether titles keep their year.

    Source: Xi et al. 2024, https://arxiv.org/abs/2403.16378
    """

    def __init__(
        self,
        log: Log,
        tokenizer: PreTrainedTokenizerBase,
        history_length: int,
        title_year: bool = True,
    ) -> None:
        self.history_length = history_length
        self.log, self.titles = log, [clean_title(title, year=title_year) for title in log.titles]
        self.text = Text(tokenizer)
        self.answers = (
            self.text.answer("Answer:", " no"),
            self.text.answer("Answer:", " yes"),
        )

    def prompt(self, user_begin: int, end: int, item: int) -> str:
        """The text for a target item whose user's history lies at log rows ``user_begin:end``."""
        rows = slice(max(user_begin, end - self.history_length), end)
        history = ", ".join(
            f"{self.titles[item]} ({'liked' if label else 'disliked'})"
            for item, label in zip(
                self.log.history_item[rows].tolist(),
                self.log.history_label[rows].tolist(),
                strict=True,
            )
        )
        return (
            f"Below is the rating history of a user: {history}. "
            f"Please predict whether the user will like {self.titles[item]} based on his/her "
            "rating history and the quality of the target item. You should ONLY answer no or yes. "
            "Answer:"
        )

    def encode(self, samples: Samples) -> list[TokenSequence]:
        """One sequence for each sample."""
        sequences = []
        for i, (begin, end, item) in enumerate(
            zip(samples.begin.tolist(), samples.end.tolist(), samples.item.tolist(), strict=True)
        ):
            ids = self.text(self.prompt(begin, end, item), start=True)
            sequences.append(TokenSequence(np.array(ids), np.array([len(ids) - 1]), np.array([i])))
        return sequences


def build_layout(config: LlmConfig, log: Log, tokenizer: PreTrainedTokenizerBase) -> Layout:
    """The layout that a configuration asks for."""
    if config.layout == "paper":
        return PaperLayout(log, tokenizer, config.history_length, config.title_year)
    return StreamLayout(
        log,
        tokenizer,
        config.history_length,
        config.window,
        config.title_year,
        config.heading,
    )


@dataclass(frozen=True)
class LlmBatch:
    """Sequences of similar length, padded at the right.

    Args:
        ids: ``(batch, length)`` int64.
        row, place: ``(answers,)`` where the answers stand.
        sample: ``(answers,)`` index of the sample that each answers.
        tokens: Number of tokens without padding.
    """

    ids: Tensor
    row: Tensor
    place: Tensor
    sample: Tensor
    tokens: int


def make_batches(sequences: Sequence[TokenSequence], tokens_per_batch: int) -> list[LlmBatch]:
    """Group sequences, longest first, so that no batch holds more padded tokens than the budget.

    A sequence longer than the budget is a batch of its own.
    """
    ordered = sorted(sequences, key=lambda sequence: -len(sequence.ids))
    batches, start = [], 0
    while start < len(ordered):
        size = max(1, tokens_per_batch // len(ordered[start].ids))
        batches.append(_pad(ordered[start : start + size]))
        start += size
    return batches


def _pad(sequences: Sequence[TokenSequence]) -> LlmBatch:
    ids = np.zeros((len(sequences), max(len(s.ids) for s in sequences)), dtype=np.int64)
    for i, sequence in enumerate(sequences):
        ids[i, : len(sequence.ids)] = sequence.ids
    rows = np.repeat(np.arange(len(sequences)), [len(s.places) for s in sequences])
    return LlmBatch(
        ids=torch.from_numpy(ids),
        row=torch.from_numpy(rows),
        place=torch.from_numpy(np.concatenate([s.places for s in sequences])),
        sample=torch.from_numpy(np.concatenate([s.samples for s in sequences])),
        tokens=sum(len(s.ids) for s in sequences),
    )
