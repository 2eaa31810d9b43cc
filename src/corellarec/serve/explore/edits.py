"""What a page about a user asks for, and what if: other rows, other answers, other titles."""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from urllib.parse import urlencode

import numpy as np
import polars as pl

from corellarec.data.histories import History
from corellarec.serve.histories import UserHistory
from corellarec.serve.model import ServedModel

EDITS = ("drop", "flip", "liked", "disliked", "new", "renamed", "title")


@dataclass(frozen=True)
class Page:
    """What a page about a user is asked for; all of it is in its address.

    Args:
        user: Id.
        name: What the user is called on pages.
        drop: Places of the history that are left out.
        flip: Places whose answer is turned round.
        liked: Titles, or ids, of items that the user liked last.
        disliked: Likewise, that the user did not like.
        new: Titles of candidates that no log has.
        renamed: Ids of items ...
        title: ... that have other titles, one for each.
        words: Of titles; without any, the best candidates.
        sort: Of the candidates.
    """

    user: str
    name: str
    drop: Sequence[int] = ()
    flip: Sequence[int] = ()
    liked: Sequence[str] = ()
    disliked: Sequence[str] = ()
    new: Sequence[str] = ()
    renamed: Sequence[str] = ()
    title: Sequence[str] = ()
    words: str = ""
    sort: str = "answer"

    @property
    def changes(self) -> list[tuple[str, str]]:
        """The changes as pairs of a query."""
        return [(name, str(value)) for name in EDITS for value in getattr(self, name)]

    @property
    def edits(self) -> str:
        """The changes as a part of a query, from ``&``."""
        return "&" + urlencode(self.changes) if self.changes else ""

    @property
    def query(self) -> str:
        """The whole query."""
        pairs = {"id": self.name, "words": self.words, "sort": self.sort}
        return urlencode(pairs) + self.edits

    @property
    def summary(self) -> str:
        """The changes in words."""
        counted = (
            (len(set(self.drop)), "left out of the history"),
            (len(set(self.flip)), "turned round"),
            (len(self.liked) + len(self.disliked), "added to the history"),
            (len(self.new), "added to the candidates"),
            (len(self.renamed), "with another title"),
        )
        return ", ".join(f"{count} {what}" for count, what in counted if count)


def tables(model: ServedModel, page: Page) -> tuple[ServedModel, dict[str, int]]:
    """The model with the titles of a page, and the number of each item that the page names.

    A title that the log has is that item's; any other one makes a new item.
    """
    named = dict.fromkeys([*page.liked, *page.disliked, *page.new])
    if not named and not page.renamed:
        return model, {}
    found = {text: number for text in named if (number := model.items.get(text)) is not None}
    missing = {text.casefold(): text for text in named if text not in found}
    if missing:
        for number, title in enumerate(model.log.titles):
            text = missing.pop(title.casefold(), None)
            if text is not None:
                found[text] = number
    ids = {text: f"new: {text}" for text in named if text not in found}
    model = model.with_more([(one, json.dumps({"title": text})) for text, one in ids.items()], [])
    found |= {text: model.items[one] for text, one in ids.items()}
    if page.renamed:
        model = _retitled(model, dict(zip(page.renamed, page.title, strict=True)))
    return model, found


def _retitled(model: ServedModel, titles: dict[str, str]) -> ServedModel:
    """A model whose log has other titles."""
    log = copy.copy(model.log)
    vars(log).pop("titles", None)
    log.items = log.items.with_columns(
        title=pl.col("id").replace_strict(titles, default=pl.col("title"), return_dtype=pl.String)
    )
    return ServedModel(model.cascade_over(log), model.version)


def changed(
    model: ServedModel, user: UserHistory, page: Page, numbers: dict[str, int]
) -> UserHistory:
    """A history with a page's changes.

    Args:
        model: With the page's titles.
        user: As it is.
        page: The changes.
        numbers: Of the items that the page names, by their names there.
    """
    history = user.history
    count = len(history)
    label, level, row = history.label.copy(), history.level.copy(), history.row.copy()
    turned = [place for place in page.flip if 0 <= place < count]
    label[turned] = 1 - label[turned]
    level[turned] = label[turned]  # the rating that would have been is not known
    row[turned] = -1  # what is changed is no row of the log any more
    keep = np.ones(count, dtype=bool)
    keep[[place for place in page.drop if 0 <= place < count]] = False
    kept = History(history.item, label, level, history.time, row)[keep]
    added = [(numbers[x], 1) for x in page.liked] + [(numbers[x], 0) for x in page.disliked]
    if added:
        item, answer = np.array(added).T
        last = int(history.time[-1]) if count else 0
        later = History(
            item.astype(np.int32),
            answer.astype(np.int8),
            answer.astype(np.int8),
            last + 1 + np.arange(len(item)),
            np.full(len(item), -1, np.int64),
        )
        kept = History(
            *(np.concatenate([getattr(kept, f.name), getattr(later, f.name)])
              for f in fields(History))
        )  # fmt: skip
        user = replace(user, seen=np.concatenate([user.seen, later.item]))
    if model.log.history == "positives":
        kept = kept[kept.label == 1]
    return replace(user, history=kept)
