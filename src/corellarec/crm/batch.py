"""What a CRM reads: a few gathers from the log's tensors, no per-sample work."""

import copy
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor

from corellarec.data.levels import FIRST
from corellarec.data.log import Log, Samples


class CrmBatch(NamedTuple):
    """A batch of samples; every distinct item comes once.

    Args:
        user_codes: ``(batch, user columns)`` int32.
        user_values: ``(batch, user values)`` floats: numbers and vectors.
        item_codes: ``(distinct items, item columns)`` int32.
        item_values: ``(distinct items, item values)`` floats.
        target: ``(batch,)`` int64, row of ``item_codes``.
        history: ``(batch, length)`` int64, rows of ``item_codes``, newest first.
        level: ``(batch, length)`` int64, what the user said of each history row: the level of a
            rating (:mod:`corellarec.data.levels`), or the label in a log without ratings.
        mask: ``(batch, length)`` bool, whether a history row exists.
        statistics: ``(batch, 12)`` floats, the columns of
            :data:`corellarec.data.statistics.STATISTICS`; None where ``crm.statistics`` is off.
    """

    user_codes: Tensor
    user_values: Tensor
    item_codes: Tensor
    item_values: Tensor
    target: Tensor
    history: Tensor
    level: Tensor
    mask: Tensor
    statistics: Tensor | None = None


class Reader(Protocol):
    """Makes the batches of a CRM.

    Attributes:
        device: Where they are built.
    """

    device: torch.device

    def parts(
        self, samples: Samples, size: int, generator: torch.Generator | None = None
    ) -> list[Tensor]:
        """Indices of samples in parts of about ``size``, which are batches.

        Args:
            samples: What is to be read.
            size: Samples in a part.
            generator: Draws what goes together, and the order of the parts; their number does not
                depend on it. Without it both are fixed.
        """
        ...

    def __call__(self, samples: Samples) -> Any:  # noqa: ANN401 (what the CRM reads)
        """The batch of ``samples``."""
        ...

    def over(self, log: Log) -> Self:
        """A reader of other histories: those of ``log``, from ``histories.over``.

        It shares buffers with this one: both are for the same thread.
        """
        ...


class Distinct:
    """Finds the distinct ones among whole numbers below a limit, without sorting them all.

    Args:
        limit: The numbers lie in ``[0, limit)``.
        device: Where they lie.
    """

    def __init__(self, limit: int, device: torch.device) -> None:
        self._place = torch.zeros(limit, dtype=torch.int64, device=device)

    def __call__(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """The distinct of ``numbers`` (int64, any shape), ascending, and each one's place there."""
        flat = numbers.flatten()
        order = torch.arange(len(flat), device=flat.device)
        # Of equal numbers any one is written last; it stands for the others.
        self._place.scatter_(0, flat, order)
        distinct = flat[self._place.index_select(0, flat) == order].sort().values
        self._place[distinct] = order[: len(distinct)]
        return distinct, self._place.index_select(0, flat).view(numbers.shape)


def said_of_history(log: Log, *, ratings: bool) -> tuple[Tensor, Tensor]:
    """``(history rows,)`` int8, levels of ratings or labels; and the level each is read as."""
    if ratings:
        return log.history_level, log.usual_level
    return log.history_label, torch.arange(FIRST)


class CrmReader:
    """Gathers :class:`CrmBatch` from a log whose columns lie on the models' device.

    Args:
        log: The prepared log.
        history_length: Most rows of history.
        device: Where batches are built.
        statistics: Whether batches have statistics of users and items.
        ratings: Whether a history row's level is that of its rating, where the log has ratings; it
            is its label else.
    """

    def __init__(
        self,
        log: Log,
        history_length: int,
        device: torch.device,
        *,
        statistics: bool = False,
        ratings: bool = True,
    ) -> None:
        self.device, self.ratings = device, ratings
        self.statistics = log.statistics if statistics else None
        self.history_length = history_length
        self.item = log.history_item.to(device)
        level, read_as = said_of_history(log, ratings=ratings)
        self.level, self.read_as = level.to(device), read_as.to(device)
        self.item_codes = log.item_codes.to(device)
        self.item_values = log.item_values.to(device)
        # A last row of zeros is the unknown user, whose number is -1.
        self.user_codes = torch.cat([log.user_codes, log.user_codes[:1] * 0]).to(device)
        self.user_values = torch.cat([log.user_values, log.user_values[:1] * 0]).to(device)
        self.back = torch.arange(1, history_length + 1, device=device)
        self.distinct = Distinct(len(self.item_codes), device)

    def over(self, log: Log) -> Self:
        """As :meth:`Reader.over`."""
        found = copy.copy(self)
        found.statistics = log.statistics if self.statistics else None
        found.item = log.history_item.to(self.device)
        found.level = said_of_history(log, ratings=self.ratings)[0].to(self.device)
        return found

    def history(self, samples: Samples) -> tuple[Tensor, Tensor, Tensor]:
        """The last rows of each sample's history, newest first.

        Returns ``(batch, length)`` item numbers (int32), levels (int8), and whether there is such
        a row (bool); where there is none, item and level are of some other row.
        """
        rows = samples.end.to(self.device).unsqueeze(1) - self.back
        mask = rows >= samples.begin.to(self.device).unsqueeze(1)
        rows = rows.clamp_(min=0).flatten()
        item, level = self.item.index_select(0, rows), self.level.index_select(0, rows)
        return item.view(mask.shape), level.view(mask.shape), mask

    def parts(
        self, samples: Samples, size: int, generator: torch.Generator | None = None
    ) -> list[Tensor]:
        """Indices of samples in parts of ``size``: as they come, or in an order that is drawn."""
        count = len(samples)
        if generator is None:
            order = torch.arange(count)
        else:
            order = torch.randperm(count, generator=generator)
        return list(order.split(size)) if count else []

    def __call__(self, samples: Samples) -> CrmBatch:
        """The batch of ``samples``, which may lie on the CPU."""
        items, level, mask = self.history(samples)
        user = samples.user.to(self.device)
        target_and_history = torch.cat([samples.item.to(self.device).unsqueeze(1), items.long()], 1)
        distinct, place = self.distinct(target_and_history)
        return CrmBatch(
            user_codes=self.user_codes[user],
            user_values=self.user_values[user],
            item_codes=self.item_codes.index_select(0, distinct),
            item_values=self.item_values.index_select(0, distinct),
            target=place[:, 0],
            history=place[:, 1:],
            level=self.read_as[level.long()],
            mask=mask,
            statistics=self.statistics(samples).to(self.device) if self.statistics else None,
        )
