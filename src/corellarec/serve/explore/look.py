"""What both models read of a user and an item, and what each part does to the CRM's answer."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from corellarec.base.metrics import Floats, sigmoid
from corellarec.crm.batch import Reader
from corellarec.crm.build import build_reader
from corellarec.crm.score import crm_logits
from corellarec.data.histories import candidates_over
from corellarec.data.log import Log
from corellarec.serve.crm import score
from corellarec.serve.explore.opinions import past
from corellarec.serve.explore.validation import Validation
from corellarec.serve.explore.words import moment
from corellarec.serve.histories import UserHistory
from corellarec.serve.llm import LlmThread
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
        time: When, in UTC, without the time of day where that is midnight.
        p_crm: What the CRM said just before it.
        p_llm: What the LLM said, where it was asked.
    """

    place: int
    item: str
    title: str
    liked: bool
    time: str
    p_crm: float
    p_llm: float | None = None

    @property
    def crm_hit(self) -> bool:
        """Whether the CRM was on the right side of one half."""
        return (self.p_crm >= 0.5) == self.liked

    @property
    def llm_hit(self) -> bool:
        """Whether the LLM was, if it was asked."""
        return self.p_llm is not None and (self.p_llm >= 0.5) == self.liked


def lines(
    model: ServedModel, reader: Reader, user: UserHistory, p_llm: Floats | None = None
) -> list[Line]:
    """The newest rows of a history, newest first, each with the CRM's opinion before it.

    Args:
        model: Whose opinion it is.
        reader: The calling thread's.
        user: The history.
        p_llm: The language model's opinion of these rows, oldest first, if it was asked.
    """
    history, count = user.history, len(user.history)
    if not count:
        return []
    view, samples = past(model.log, user)
    newest = torch.arange(count)[-SHOWN:]
    logit = crm_logits(model.crm, reader.over(view), samples[newest]).double().numpy()
    p_crm, titles, ids = sigmoid(model.router.crm(logit)), model.log.titles, model.log.items["id"]
    found = [
        Line(
            row,
            ids[int(history.item[row])],
            titles[int(history.item[row])],
            bool(history.label[row]),
            moment(int(history.time[row])),
            float(p),
            None if p_llm is None else float(p_llm[place]),
        )
        for place, (row, p) in enumerate(zip(newest.tolist(), p_crm, strict=True))
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
    users = [user, *(_without(user, place) for place in places)]
    p = [float(one[0]) for one in opinions(model, reader, users, np.array([item]))]
    by_place = {line.place: line for line in lines(model, reader, user)}
    found = [
        Influence(by_place[place], without - p[0])
        for place, without in zip(places, p[1:], strict=True)
    ]
    return sorted(found, key=lambda one: -abs(one.change))


def _without(user: UserHistory, place: int) -> UserHistory:
    keep = np.arange(len(user.history)) != place
    return replace(user, history=user.history[keep])


@dataclass(frozen=True)
class FeatureInfluence:
    """What a feature does to the CRM's answer.

    Args:
        side: ``user``, ``item`` or ``history``.
        name: Of the feature.
        value: That the CRM reads, in words.
        change: Of ``p_crm``, were it not known.
    """

    side: str
    name: str
    value: str
    change: float


def features(model: ServedModel, user: UserHistory, item: int) -> list[FeatureInfluence]:
    """All features, by how much the CRM's answer for an item would change without each.

    A feature that is not known has the code of values that training did not show, and a number the
    mean of training.
    """
    log, layout = model.log, model.log.features

    def answer(log: Log, user: UserHistory) -> float:
        reader = build_reader(model.recipe.crm, log, torch.device("cpu"))
        view, samples = candidates_over(log, [user.number], [user.history], [np.array([item])])
        logit = crm_logits(model.crm, reader.over(view), samples).double().numpy()
        return float(sigmoid(model.router.crm(logit))[0])

    before, found = answer(log, user), []
    sides = [("item", layout.item, "item_codes", item, log.items),
             ("item", layout.item_values, "item_values", item, log.items)]  # fmt: skip
    if user.number >= 0:
        sides += [("user", layout.user, "user_codes", user.number, log.users),
                  ("user", layout.user_values, "user_values", user.number, log.users)]  # fmt: skip
    for side, named, matrix, number, table in sides:
        start = 0
        for feature in named:
            other = copy.copy(log)
            changed = getattr(log, matrix).clone()
            changed[number, start : start + feature.width] = 0
            setattr(other, matrix, changed)
            start += feature.width
            name = feature.name if feature.name in table.columns else "id"
            change = answer(other, user) - before
            found.append(FeatureInfluence(side, name, _value(table, name, number), change))
    if len(user.history):
        rows = f"{len(user.history)} rows"
        nothing = replace(user, history=user.history[:0])
        found.append(FeatureInfluence("history", "history", rows, answer(log, nothing) - before))
    return sorted(found, key=lambda one: -abs(one.change))


def _value(table: pl.DataFrame, name: str, number: int) -> str:
    value = table[name][number]
    if value is None:
        return "missing"
    return ", ".join(map(str, value)) if isinstance(value, pl.Series) else str(value)


@dataclass(frozen=True)
class Read:
    """What the language model reads for a candidate.

    Args:
        tokens: Text of each token, up to the place where it answers.
        answers: The words of the answers, negative ones first.
    """

    tokens: Sequence[str]
    answers: Sequence[str]


def what_is_read(model: ServedModel, llm: LlmThread, user: UserHistory, item: int) -> Read | None:
    """The language model's text for one candidate; None until it is loaded."""
    view, samples = candidates_over(model.log, [user.number], [user.history], [np.array([item])])
    layout = llm.layout_of(model.log)
    if layout is None:
        return None
    (sequence,) = layout.over(view).encode(samples)
    ids = sequence.whole().ids[: int(sequence.whole().places[0]) + 1]
    tokenizer = layout.text.tokenizer  # pyright: ignore[reportAttributeAccessIssue]
    answers = [tokenizer.decode([one]) for one in layout.answers]
    return Read(_pieces(tokenizer.decode, ids.tolist()), answers)


def _pieces(decode: Callable[[list[int]], str], ids: Sequence[int]) -> list[str]:
    """The text of each token as it stands behind those before it.

    Tokens that are parts of one character are one piece.
    """
    found, begin = [], 0
    for end in range(1, len(ids) + 1):
        before = list(ids[max(0, begin - 4) : begin])
        text = decode([*before, *ids[begin:end]])[len(decode(before)) :]
        if "\ufffd" not in text or end - begin > 8:
            found.append(text)
            begin = end
    return found


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


def segments(model: ServedModel, validation: Validation | None) -> Mapping[str, NDArray[np.int64]]:
    """Numbers of users to look at.

    Args:
        model: Whose users they are.
        validation: Rows that both models answered, if there are some.
    """
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
        "the models disagree": known[:0] if validation is None else validation.disagreeing(),
    }


def opinions(
    model: ServedModel, reader: Reader, users: Sequence[UserHistory], items: NDArray[np.int64]
) -> list[Floats]:
    """The CRM's probabilities ``(items,)`` for each of several histories."""
    return [one.p_crm for one in score(model, reader, users, [items] * len(users))]
