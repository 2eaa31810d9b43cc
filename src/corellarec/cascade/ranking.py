"""Items ranked for users: the CRM scores all candidates, the router sees the promising head."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from corellarec.base.errors import DataError
from corellarec.base.metrics import Floats
from corellarec.cascade.budget import Mask
from corellarec.cascade.lists import ListPolicy, list_facts
from corellarec.cascade.prediction import Prediction, order_of
from corellarec.cascade.router import Router
from corellarec.cascade.tables import numbers_of
from corellarec.data.log import Log, Samples

MIN_HEAD = 50  # candidates of a user that the router sees, at least


def candidate_numbers(log: Log, ids: Sequence[str | int] | None) -> Tensor:
    """``(n,)`` int64 numbers of candidates, each once; of all items where ``ids`` is None.

    Raises:
        DataError: If an item is not known.
    """
    if ids is None:
        return torch.arange(log.items.height)
    wanted = pl.Series([str(one) for one in ids], dtype=pl.String)
    found = numbers_of(wanted, log.items)
    if (found == -1).any():
        place = int((found == -1).arg_true()[0])
        raise DataError(
            f"candidate {wanted[place]!r} is not known: give new items with their titles first "
            "(Cascade.add_items)"
        )
    return torch.from_numpy(found.unique(maintain_order=True).to_numpy().copy())


def crm_order(log: Log, router: Router, item: NDArray[np.int64], crm_logit: Floats) -> Floats:
    """What the CRM orders items by: its logit, corrected for the drawing of negatives.

    Args:
        log: How negatives were drawn.
        router: Its calibration of the CRM.
        item: ``(n,)`` item numbers.
        crm_logit: ``(..., n)`` raw logits.
    """
    if not log.negatives:
        return crm_logit.copy()
    return router.crm(crm_logit) + log.log_q[item]  # calibrated, so that it can be added to


@dataclass(frozen=True)
class Head:
    """Each user's best candidates by the CRM.

    Args:
        user: ``(n,)`` places of the users among those asked about.
        samples: ``(n,)`` the candidates, each user's best first.
        crm_logit: ``(n,)`` their logits.
        score: ``(n,)`` of :func:`crm_order`.
    """

    user: NDArray[np.int64]
    samples: Samples
    crm_logit: Floats
    score: Floats


def head_length(k: int, policy: ListPolicy | None) -> int:
    """Candidates of a user that may be ranked anew where ``k`` are wanted."""
    return max(MIN_HEAD, 2 * k, policy.length if policy else 0)


def promising(
    log: Log,
    crm_logits: Callable[[Samples], Floats],
    router: Router,
    users: Tensor,
    items: Tensor,
    length: int,
    *,
    exclude_seen: bool,
) -> Head:
    """Score all candidates of some users and keep each one's best.

    Args:
        log: Histories.
        crm_logits: Scores samples.
        router: Its calibration of the CRM counts where negatives were drawn.
        users: ``(users,)`` int64 numbers, -1 for a new user.
        items: ``(items,)`` int64 numbers of the candidates.
        length: How many, of :func:`head_length`.
        exclude_seen: Whether a user's own items are no candidates.
    """
    user, item = users.repeat_interleave(len(items)), items.repeat(len(users))
    samples = log.candidates(user, item)
    logit = crm_logits(samples).reshape(len(users), len(items))
    order = crm_order(log, router, items.numpy(), logit)
    if exclude_seen:
        for row, number in enumerate(users.tolist()):
            if number >= 0:
                order[row, np.isin(items.numpy(), log.items_of(number))] = -np.inf
    best = np.argsort(-order, axis=1, kind="stable")[:, :length]
    place = (np.arange(len(users))[:, None] * len(items) + best).ravel()
    place = place[np.isfinite(order.ravel()[place])]
    chosen = samples[torch.from_numpy(place)]
    return Head(place // len(items), chosen, logit.ravel()[place], order.ravel()[place])


def places(order: Floats) -> NDArray[np.int64]:
    """``(..., n)`` the place of each in its row, 0 for the highest; of equals the first."""
    return np.argsort(np.argsort(-order, axis=-1, kind="stable"), axis=-1)


class HeadLists:
    """The first items of each user's head as a list that is re-ranked as a whole, or not at all.

    Args:
        log: Histories.
        head: The best candidates of some users.
        policy: Whose lists are.

    Attributes:
        value: ``(lists,)`` NDCG that re-ranking each is expected to gain.
        above: ``(lists,)`` whether the policy sends it, if the budget allows.
    """

    def __init__(self, log: Log, head: Head, policy: ListPolicy) -> None:
        self.log, self.head, self.policy = log, head, policy
        _, first, self._list = np.unique(head.user, return_index=True, return_inverse=True)
        self._place = np.arange(len(head.user)) - first[self._list]
        self._inside = self._place < policy.length
        self._base = self._table(head.score, -np.inf)
        samples = head.samples[torch.from_numpy(first)]
        rows = log.item_train_rows[head.samples.item].numpy()
        known = (samples.user >= 0) & (log.user_train_rows[samples.user.clamp(min=0)] > 0)
        facts = list_facts(
            self._base, (samples.end - samples.begin).numpy(), known.numpy(), self._table(rows, 0.0)
        )
        self.value = policy.value(facts)
        self.above = policy.above(self.value)

    def _table(self, column: Floats, missing: float) -> Floats:
        """``(lists, places)`` of a column of the head."""
        table = np.full((self._list.max() + 1, self.policy.length), missing)
        table[self._list[self._inside], self._place[self._inside]] = column[self._inside]
        return table

    def rows(self, asked: Mask) -> Mask:
        """``(n,)`` which rows of the head are of the lists ``(lists,)`` that are asked about."""
        return asked[self._list] & self._inside

    def order(self, llm_logit: Floats) -> Floats:
        """``(n,)`` what the head is ordered by within each user, the highest first.

        A list that the language model answered whole is in the order of the policy's blend, items
        beyond it behind; any other stays as the CRM ordered it.

        Args:
            llm_logit: ``(n,)`` its raw logits, NaN where it did not answer.
        """
        expert = llm_logit
        if self.log.negatives:
            expert = expert + self.log.log_q[self.head.samples.item.numpy()]
        expert = self._table(expert, -np.inf)
        place = places(self.policy.blend(self._base, expert))
        moved = np.isnan(expert).sum(1) == 0
        order = -self._place.astype(np.float64)
        rows = self.rows(moved)
        order[rows] = -place[self._list[rows], self._place[rows]]
        return order


def ranked(
    log: Log,
    ids: pl.Series,
    head: Head,
    prediction: Prediction,
    k: int,
    order: Floats | None = None,
) -> pl.DataFrame:
    """The ``k`` best of each user's head.

    Args:
        log: Users and items.
        ids: Of the users.
        head: Their best candidates.
        prediction: Of these.
        k: Items to keep.
        order: ``(n,)`` what orders them, the highest first; by default it is the answer.

    Returns:
        ``user``, ``rank`` (1 is best), ``item``, ``p``, ``p_crm``, ``p_llm``, ``source``, and
        ``p_next`` where negatives were drawn.
    """
    item = head.samples.item.numpy()
    order = order_of(log, item, prediction.p) if order is None else order
    more = ["p_next"] if log.negatives else []
    table = pl.DataFrame(
        {
            "place": head.user,
            "user": ids.gather(head.user),
            "item": log.items["id"].gather(item),
            "order": order,
        }
    )
    return (
        pl.concat([table, prediction.to_frame()], how="horizontal")
        .sort("place", -pl.col("order"), maintain_order=True)
        .with_columns(rank=pl.int_range(1, pl.len() + 1).over("place"))
        .filter(pl.col("rank") <= k)
        .select("user", "rank", "item", "p", "p_crm", "p_llm", "source", *more)
    )
