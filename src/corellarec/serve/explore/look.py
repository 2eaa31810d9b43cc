"""What both models think of a user: the history, candidates, what if, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from corellarec.base.metrics import Floats, sigmoid
from corellarec.crm.batch import Reader
from corellarec.crm.score import crm_logits
from corellarec.data.histories import History, candidates_over, over
from corellarec.data.log import Samples
from corellarec.llm.layout import Layout
from corellarec.serve.crm import score
from corellarec.serve.histories import UserHistory
from corellarec.serve.model import ServedModel

SHOWN = 200  # newest rows of a history on a page
LEFT_OUT = 50  # newest rows that are left out in turn
HIDDEN = ("id", "title", "train_rows", "train_liked")


@dataclass(frozen=True)
class Line:
    """A row of a user's history.

    Args:
        place: In the whole history, from 0.
        item: Id.
        title: Of the item.
        liked: Whether the user liked it.
        time: When, ISO 8601 in UTC, without the time of day where that is midnight.
        p_crm: What the CRM said just before it.
    """

    place: int
    item: str
    title: str
    liked: bool
    time: str
    p_crm: float

    @property
    def hit(self) -> bool:
        """Whether the CRM was on the right side of one half."""
        return (self.p_crm >= 0.5) == self.liked


def lines(model: ServedModel, reader: Reader, user: UserHistory) -> list[Line]:
    """The newest rows of a history, newest first, each with the CRM's opinion before it."""
    history, count = user.history, len(user.history)
    if not count:
        return []
    view, place = over(model.log, [history]), torch.arange(count)
    samples = Samples(
        torch.full((count,), user.number),
        torch.from_numpy(history.item.astype(np.int64)),
        torch.zeros(count, dtype=torch.int64),
        place,
        torch.from_numpy(history.row),
    )
    newest = place[-SHOWN:]
    logit = crm_logits(model.crm, reader.over(view), samples[newest]).double().numpy()
    p_crm, titles, ids = sigmoid(model.router.crm(logit)), model.log.titles, model.log.items["id"]
    found = [
        Line(
            row,
            ids[int(history.item[row])],
            titles[int(history.item[row])],
            bool(history.label[row]),
            _time(int(history.time[row])),
            float(p),
        )
        for row, p in zip(newest.tolist(), p_crm, strict=True)
    ]
    return found[::-1]


def attributes(table: pl.DataFrame, number: int) -> dict[str, str]:
    """What a table of users or items says of one of them, in words."""
    names = [
        name
        for name in table.columns
        if name not in HIDDEN and not name.endswith(("_code", "_values"))
    ]
    row = table.select(names).row(number, named=True)
    return {
        name: ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in row.items()
        if value is not None
    }


def changed(user: UserHistory, drop: Sequence[int], flip: Sequence[int]) -> UserHistory:
    """A history with rows left out and answers turned round, by their places."""
    history = user.history
    label, level = history.label.copy(), history.level.copy()
    turned = [place for place in flip if 0 <= place < len(label)]
    label[turned] = 1 - label[turned]
    level[turned] = label[turned]  # the rating that would have been is not known
    keep = np.ones(len(label), dtype=bool)
    keep[[place for place in drop if 0 <= place < len(label)]] = False
    # What is changed is no row of the log any more.
    row = history.row.copy()
    row[turned] = -1
    return replace(user, history=History(history.item, label, level, history.time, row)[keep])


@dataclass(frozen=True)
class Influence:
    """What a row of the history does to the CRM's answer.

    Args:
        line: The row.
        change: Of ``p_crm``, were it left out.
    """

    line: Line
    change: float


def influences(model: ServedModel, reader: Reader, user: UserHistory, item: int) -> list[Influence]:
    """The newest rows, by how much the CRM's answer for an item would change without each."""
    count = len(user.history)
    places = list(range(max(0, count - LEFT_OUT), count))
    users = [user, *(changed(user, [place], []) for place in places)]
    p = [float(one[0]) for one in opinions(model, reader, users, np.array([item]))]
    by_place = {line.place: line for line in lines(model, reader, user)}
    found = [
        Influence(by_place[place], without - p[0])
        for place, without in zip(places, p[1:], strict=True)
    ]
    return sorted(found, key=lambda one: -abs(one.change))


@dataclass(frozen=True)
class Read:
    """What the language model reads for a candidate.

    Args:
        text: Up to the place where it answers.
        tokens: How many.
        answers: The words of no and yes.
    """

    text: str
    tokens: int
    answers: tuple[str, str]


def what_is_read(model: ServedModel, layout: Layout, user: UserHistory, item: int) -> Read:
    """The language model's text for one candidate."""
    view, samples = candidates_over(model.log, [user.number], [user.history], [np.array([item])])
    (sequence,) = layout.over(view).encode(samples)
    ids = sequence.whole().ids[: int(sequence.whole().places[0]) + 1]
    tokenizer = layout.text.tokenizer  # pyright: ignore[reportAttributeAccessIssue]
    no, yes = (tokenizer.decode([one]) for one in layout.answers)
    return Read(tokenizer.decode(ids, skip_special_tokens=True), len(ids), (no, yes))


def matching(model: ServedModel, words: str, most: int = 20) -> NDArray[np.int64]:
    """Numbers of items whose titles hold all words, in any order; an id comes first."""
    wanted = words.lower().split()
    if not wanted:
        return np.zeros(0, np.int64)
    found = [
        number
        for number, title in enumerate(model.log.titles)
        if all(word in title.lower() for word in wanted)
    ]
    exact = model.items.get(words.strip())
    order = ([] if exact is None else [exact]) + [one for one in found if one != exact]
    return np.array(order[:most], np.int64)


def segments(model: ServedModel) -> Mapping[str, NDArray[np.int64]]:
    """Numbers of users to look at."""
    rows = model.log.user_begin.diff().numpy()
    known = np.flatnonzero(rows > 0)
    if not len(known):
        return {}
    length = rows[known]
    return {
        "any user": known,
        "short history": known[length <= np.quantile(length, 0.1)],
        "long history": known[length >= np.quantile(length, 0.9)],
        "not in training": known[model.log.user_train_rows.numpy()[known] == 0],
    }


def opinions(
    model: ServedModel, reader: Reader, users: Sequence[UserHistory], items: NDArray[np.int64]
) -> list[Floats]:
    """The CRM's probabilities ``(items,)`` for each of several histories."""
    return [one.p_crm for one in score(model, reader, users, [items] * len(users))]


def _time(microseconds: int) -> str:
    moment = datetime.fromtimestamp(microseconds / 1_000_000, UTC)
    if (moment.hour, moment.minute, moment.second) == (0, 0, 0):
        return f"{moment:%Y-%m-%d}"
    return f"{moment:%Y-%m-%d %H:%M}"
