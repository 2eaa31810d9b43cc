"""How users become tokens: the stream layout and the paper's one prompt per sample."""

import copy
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from corellarec.config import LlmConfig
from corellarec.data.levels import FIRST, negative_ratings
from corellarec.data.log import Log, Samples
from corellarec.llm.sequence import TokenSequence, context
from corellarec.llm.template import (
    PaperTemplate,
    StreamTemplate,
    Template,
    Texts,
    field_names,
    load_template,
)
from corellarec.llm.text import Text


class Layout(Protocol):
    """Encodes samples as token sequences."""

    @property
    def answers(self) -> tuple[int, ...]:
        """Token ids of the answers, negative ones first."""
        ...

    @property
    def negatives(self) -> int:
        """How many of the answers are negative."""
        ...

    def encode(self, samples: Samples) -> list[TokenSequence]:
        """Sequences that together answer every sample once."""
        ...

    def over(self, log: Log) -> Self:
        """The layout of other histories: those of ``log``, from ``histories.over``."""
        ...


class StreamLayout:
    """A user is one stream of lines, such as ``title -> Yes``, answered at every arrow.

    The answers are no and yes, or ratings, see :attr:`StreamTemplate.ratings`.

    Args:
        log: The prepared log, whose rows are the lines.
        tokenizer: The model's.
        template: Of the lines.
        history_length: Lines before an answered line, at least, where the user has them.
        window: Most lines in one sequence.
        title_year: Whether titles keep their year.

    Raises:
        ConfigError: If the template names what the log does not have.
        ModelError: If an answer is not a single token.

    Example:
        >>> layout = StreamLayout(log, tokenizer, template.stream, 20, 80)  # doctest: +SKIP
        >>> len(layout.encode(log.samples(log.rows_of("test"))))  # doctest: +SKIP
        312
    """

    def __init__(
        self,
        log: Log,
        tokenizer: PreTrainedTokenizerBase,
        template: StreamTemplate,
        history_length: int,
        window: int,
        title_year: bool = True,
    ) -> None:
        self.log, self.template = log, template
        self.history_length, self.window = history_length, window
        self.text, self.texts = Text(tokenizer), Texts(log, title_year)
        self.item_fields = self.texts.of_items(template.line, "stream.line", "liked")
        self.user_fields = self.texts.of_users(template.heading, "stream.heading")
        self._liked = np.zeros(len(log), np.int8)  # of every row of the log
        self.items_liked = np.zeros(log.items.height, np.int8)
        if "liked" in field_names(template.line):
            self._liked, self.items_liked = log.liked
        self.rows_liked = self._liked[log.history_rows.numpy()]
        line = template.line.format(liked=0, **dict.fromkeys(self.item_fields.columns, "x"))
        negatives = _negative_ratings(log) if template.ratings else None
        self.rated, self.negatives = negatives is not None, negatives or 1
        words = (template.no, template.yes)
        if self.rated:
            words = rating_words(len(log.features.ratings))
        self.answers = tuple(self.text.answer(line, word) for word in words)
        self.newline = self.text.after(line + words[-1], "\n")
        self._headers: dict[str, list[int]] = {}
        self._lines: dict[tuple[int, int], list[int]] = {}

    def over(self, log: Log) -> Self:
        """As :meth:`Layout.over`."""
        found = copy.copy(self)
        found.log = log
        found.rows_liked = self.liked(log.history_item.numpy(), log.history_rows.numpy())
        return found

    def liked(self, items: NDArray[np.int32], rows: NDArray[np.int64]) -> NDArray[np.int8]:
        """Rating digits ``(n,)`` of lines.

        Args:
            items: ``(n,)`` numbers in the item table.
            rows: ``(n,)`` the rows of the log that they are, -1 where they are none.
        """
        if not len(self._liked):
            return self.items_liked[items]
        return np.where(rows < 0, self.items_liked[items], self._liked[rows])

    def header(self, user: int) -> list[int]:
        """Tokens of the heading of a user's lines; the number -1 is an unknown user."""
        heading = self.template.heading.format(**self.user_fields.of(user))
        if heading not in self._headers:
            self._headers[heading] = self.text(heading + "\n", start=True)
        return self._headers[heading]

    def line(self, item: int, liked: int | None = None) -> list[int]:
        """Tokens of an item's line up to its answer.

        Args:
            item: Number in the item table.
            liked: The item's rating digit; by default that of the whole training split.
        """
        key = item, int(self.items_liked[item]) if liked is None else liked
        if key not in self._lines:
            line = self.template.line.format(liked=key[1], **self.item_fields.of(item))
            self._lines[key] = self.text(line)
        return self._lines[key]

    def encode(self, samples: Samples) -> list[TokenSequence]:
        """Sequences that together answer every sample once.

        The rows of a user share streams of lines. A row that is one of the lines is answered in
        place; any other is a line of its own, which continues the stream's lines before it. A
        sample that is no row continues its last ``history_length`` lines, whatever the others are.
        """
        user, item, begin, end = (
            column.numpy() for column in (samples.user, samples.item, samples.begin, samples.end)
        )
        rows = len(self.log.history_user)
        at = np.minimum(end, rows - 1)
        is_line = (
            (end < rows)
            & (self.log.history_user.numpy()[at] == user)
            & (self.log.history_item.numpy()[at] == item)
        )
        liked = self.liked(item, samples.row.numpy())
        alone = samples.row.numpy() < 0
        is_line &= ~alone
        order = np.lexsort((end, begin, user, alone))
        sequences, first = [], 0
        while first < len(order):
            one = order[first]
            start = max(int(begin[one]), int(end[one]) - self.history_length)
            stop = end[one] + 1 if alone[one] else start + self.window
            after = first
            while (
                after < len(order)
                and all(of[order[after]] == of[one] for of in (alone, user, begin))
                and end[order[after]] < stop
            ):
                after += 1
            some = order[first:after]
            lines, branches = some[is_line[some]], some[~is_line[some]]
            ids, arrows = self.history(int(user[one]), start, int((end + is_line)[some].max()))
            starts = np.append(len(self.header(int(user[one]))), arrows + 2 + len(self.newline))
            places, shared = arrows[end[lines] - start], starts[end[branches] - start]
            # Tokens after the last answered arrow and the last branch are left out.
            stream = TokenSequence(ids[: max(np.append(places + 1, shared))], places, lines)
            if len(lines):
                sequences.append(stream)
            for sample, before in zip(branches, shared.tolist(), strict=True):
                line = np.array(self.line(int(item[sample]), int(liked[sample])))
                place = np.array([len(line) - 1])
                sequences.append(TokenSequence(line, place, np.array([sample]), stream, before))
            first = after
        return sequences

    def history(
        self, user: int, start: int, stop: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tokens of the heading and the log's history rows ``start:stop``; places of the arrows."""
        header, some = self.header(user), slice(start, stop)
        ids, ends = list(header), []
        said = self.said(self.log.history_label[some].numpy(), self.log.history_level[some].numpy())
        for item, answer, liked in zip(
            self.log.history_item[some].tolist(),
            said.tolist(),
            self.rows_liked[some].tolist(),
            strict=True,
        ):
            ids += self.line(item, liked)
            ends.append(len(ids) - 1)
            ids += self.end(answer)
        return np.array(ids), np.array(ends, dtype=np.int64)

    def said(self, label: NDArray[np.int8], level: NDArray[np.int8]) -> NDArray[np.integer]:
        """``(n,)`` numbers of the answers of lines whose labels and levels are known."""
        return self.log.usual_level.numpy()[level] - FIRST if self.rated else label

    def end(self, answer: int) -> list[int]:
        """Tokens that end a line: the answer of this number and the line break."""
        return [self.answers[answer], *self.newline]


class PaperLayout:
    """CoReLLa's prompt: one sample, its history and the question, answered at the end.

    Args:
        log: The prepared log.
        tokenizer: The model's.
        template: Of the prompt.
        history_length: Most items of history in a prompt.
        title_year: Whether titles keep their year.

    Raises:
        ConfigError: If the template names what the log does not have.

    Example:
        >>> layout = PaperLayout(log, tokenizer, template.paper, 20)  # doctest: +SKIP
        >>> layout.prompt(user=0, begin=0, end=2, item=7)  # doctest: +SKIP
        'Below is the rating history of a user: ...'

    Source: Xi et al. 2024, https://arxiv.org/abs/2403.16378
    """

    negatives = 1

    def __init__(
        self,
        log: Log,
        tokenizer: PreTrainedTokenizerBase,
        template: PaperTemplate,
        history_length: int,
        title_year: bool = True,
    ) -> None:
        self.log, self.template, self.history_length = log, template, history_length
        self.text, texts = Text(tokenizer), Texts(log, title_year)
        self.rated_fields = texts.of_items(template.rated, "paper.rated", "opinion")
        self.target_fields = texts.of_items(template.target, "paper.target")
        self.user_fields = texts.of_users(template.prompt, "paper.prompt", "history", "target")

    @property
    def answers(self) -> tuple[int, int]:
        """Token ids of no and yes; prompts can be encoded without them.

        Raises:
            ModelError: If an answer is not a single token.
        """
        return self._answers

    @cached_property
    def _answers(self) -> tuple[int, int]:
        end, form = re.split(r"[\s}]", self.template.prompt)[-1], self.template
        return self.text.answer(end, form.no), self.text.answer(end, form.yes)

    def prompt(self, user: int, begin: int, end: int, item: int) -> str:
        """The prompt of a target item after the user's history rows ``begin:end``.

        Args:
            user: Number in the user table, -1 for an unknown user.
            begin: First of the user's history rows in the log.
            end: The row after the last; the last ``history_length`` rows are used.
            item: Number in the item table.
        """
        rows, form = slice(max(begin, end - self.history_length), end), self.template
        history = form.separator.join(
            form.rated.format(
                **self.rated_fields.of(item), opinion=form.liked if label else form.disliked
            )
            for item, label in zip(
                self.log.history_item[rows].tolist(),
                self.log.history_label[rows].tolist(),
                strict=True,
            )
        )
        fields = self.user_fields.of(user)
        target = form.target.format(**self.target_fields.of(item))
        return form.prompt.format(**fields, history=history, target=target)

    def over(self, log: Log) -> Self:
        """As :meth:`Layout.over`."""
        found = copy.copy(self)
        found.log = log
        return found

    def encode(self, samples: Samples) -> list[TokenSequence]:
        """One sequence for each sample; candidates after one history share its tokens."""
        columns = (samples.user, samples.begin, samples.end, samples.item)
        whole = [
            self.text(self.prompt(*facts), start=True)
            for facts in zip(*(column.tolist() for column in columns), strict=True)
        ]
        groups: dict[tuple[int, int], list[int]] = {}
        for i, facts in enumerate(zip(samples.user.tolist(), samples.end.tolist(), strict=True)):
            groups.setdefault(facts, []).append(i)
        sequences = []
        for group in groups.values():
            shared = _common([whole[i] for i in group]) if len(group) > 1 else 0
            before = context(whole[group[0]][:shared]) if shared else None
            for i in group:
                own = np.array(whole[i][shared:])
                place = np.array([len(own) - 1])
                sequences.append(TokenSequence(own, place, np.array([i]), before))
        return sequences


def rating_words(ratings: int) -> Sequence[str]:
    """The answers of so many ratings, lowest first.

    Example:
        >>> rating_words(5)
        '12345'
    """
    return "123456789"[:ratings] if ratings <= 9 else "ABCDEFGHIJKLMNOP"[:ratings]


def _negative_ratings(log: Log) -> int | None:
    train = log.rows_of("train")
    return negative_ratings(log.level[train].numpy(), log.labels(train).numpy())


def _common(lists: list[list[int]]) -> int:
    """Length of the common prefix, which leaves the shortest list a token of its own."""
    first, last = min(lists), max(lists)
    most = min(len(one) for one in lists) - 1
    same = (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    return min(next(same, most), most)


def build_layout(
    config: LlmConfig,
    log: Log,
    tokenizer: PreTrainedTokenizerBase,
    template: Template | None = None,
) -> Layout:
    """The configured layout.

    Args:
        config: The language model's settings.
        log: The prepared log.
        tokenizer: The model's.
        template: In place of the configured one, where it is known already.

    Raises:
        ConfigError: If the template cannot be read, or names what the log does not have.
        ModelError: If an answer is not a single token.

    Example:
        >>> layout = build_layout(config.llm, log, load_tokenizer(config.llm.model))
        ... # doctest: +SKIP
    """
    template = template or load_template(config.template)
    if config.layout == "paper":
        paper = PaperLayout(
            log, tokenizer, template.paper, config.history_length, config.title_year
        )
        _ = paper.answers  # errors now, not after minutes of training
        return paper
    return StreamLayout(
        log, tokenizer, template.stream, config.history_length, config.window, config.title_year
    )
