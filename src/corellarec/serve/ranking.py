"""Items ranked for one user: the CRM scores all of them, the language model sees the head."""

import asyncio

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from corellarec.base.metrics import Floats
from corellarec.cascade.prediction import order_of
from corellarec.cascade.ranking import Head, HeadLists, crm_order, head_length
from corellarec.data.log import Samples
from corellarec.serve.answers import in_time, route, write
from corellarec.serve.histories import UserHistory
from corellarec.serve.model import ServedModel
from corellarec.serve.problems import ProblemError
from corellarec.serve.requests import (
    Asked,
    ask_crm,
    deadline_of,
    inline_history,
    numbers_of,
)
from corellarec.serve.schemas import RecommendAnswer, RecommendRequest
from corellarec.serve.service import Service


async def recommend(
    service: Service, body: RecommendRequest, request_id: str, received: float
) -> RecommendAnswer:
    """Rank items; arguments as for :func:`corellarec.serve.answers.score`.

    Raises:
        ProblemError: If it cannot be answered, or not in time.
    """
    default = service.config.answer.recommend_deadline_ms
    deadline = deadline_of(service, received, body.deadline_ms, default)
    with in_time():
        return await _recommend(service, body, request_id, deadline)


async def _recommend(
    service: Service, body: RecommendRequest, request_id: str, deadline: float
) -> RecommendAnswer:
    now = service.lineup.of(body.user)
    model = now.model
    history = inline_history(service, model, body.user, body.history)
    user = history or await asyncio.to_thread(service.histories.of, model, body.user)
    items = _wanted(model, body, user)
    if not len(items):
        return RecommendAnswer(
            candidates=[], degraded=user.stale, model=model.version, request_id=request_id
        )
    scored = await ask_crm(service, service.rankings, model, body.user, items, deadline, user)
    order = order_of(model.log, items, scored.p_crm)
    head = np.argsort(-order, kind="stable")[: head_length(body.k, model.recipe.lists)]
    ids = model.log.items["id"].gather(items[head]).to_list()
    asked = Asked(request_id, body.user, history is None, ids, deadline)
    lists = _lists(model, user, items[head], scored[head].known.crm_logit)
    found = await route(service, now, asked, scored[head], items[head], lists=lists)
    order = (
        order_of(model.log, items[head], found.p) if lists is None else lists.order(found.llm_logit)
    )
    best = np.argsort(-order, kind="stable")[: body.k]
    answer = write(
        service, model, [ids[i] for i in best], found[best], request_id, explained=body.explain
    )
    return RecommendAnswer.model_construct(**dict(answer))


def _lists(
    model: ServedModel, user: UserHistory, items: NDArray[np.int64], crm_logit: Floats
) -> HeadLists | None:
    """The user's head as a list that is sent as a whole, if the cascade decides so."""
    if model.recipe.lists is None:
        return None
    number, begin, end, row = (
        torch.full((len(items),), one) for one in (user.number, 0, len(user.history), -1)
    )
    samples = Samples(number, torch.from_numpy(items), begin, end, row)
    score = crm_order(model.log, model.router, items, crm_logit)
    head = Head(np.zeros(len(items), np.int64), samples, crm_logit, score)
    return HeadLists(model.log, head, model.recipe.lists)


def _wanted(model: ServedModel, body: RecommendRequest, user: UserHistory) -> NDArray[np.int64]:
    """Numbers of the items to rank."""
    if body.candidates is None:
        items = np.arange(len(model.items))
    else:
        items = np.unique(numbers_of(model, body.candidates, "candidates"))
    if body.exclude_seen:
        items = items[~np.isin(items, user.seen)]
    if body.exclude:
        excluded = [model.items[one] for one in body.exclude if one in model.items]
        items = items[~np.isin(items, excluded)]
    for name, value in body.where.items():
        items = items[_has(model, name, value)[items]]
    return items


def _has(model: ServedModel, name: str, value: str) -> NDArray[np.bool_]:
    """Whether each item has a value of an attribute."""
    table = model.log.items
    derived = ("_code", "_values")
    known = [c for c in table.columns if not c.endswith(derived) and c != "train_rows"]
    if name not in known:
        raise ProblemError(422, f"where: no attribute {name!r}; there are: {', '.join(known)}")
    column = table[name]
    if isinstance(column.dtype, pl.List):
        found = column.cast(pl.List(pl.String)).list.contains(value)
    else:
        found = column.cast(pl.String) == value
    return found.fill_null(False).to_numpy()
