"""What a stream CRM reads: windows of users' events, and the samples that each one answers."""

import copy
from typing import NamedTuple, Self

import torch
from torch import Tensor

from corellarec.crm.batch import Distinct, said_of_history
from corellarec.data.log import Log, Samples
from corellarec.data.statistics import STATISTICS

LIKE = 16  # histories whose lengths differ by less may change places in training


class StreamBatch(NamedTuple):
    """Windows, their events, and the samples to answer; every distinct item comes once.

    A window's events lie at its beginning; what is behind them repeats the last and is not read,
    since a sample reads the events before its own position alone.

    Args:
        user_codes: ``(windows, user columns)`` int32.
        user_values: ``(windows, user values)`` floats: numbers and vectors.
        item_codes: ``(distinct items, item columns)`` int32.
        item_values: ``(distinct items, item values)`` floats.
        event: ``(windows, events)`` int64, rows of ``item_codes``.
        level: ``(windows, events)`` int64, what the user said of each.
        event_statistics: ``(windows, events, 12)`` floats, of the moment of the event.
        target: ``(windows, samples)`` int64, rows of ``item_codes``.
        position: ``(windows, samples)`` int64, how many of the events come before.
        statistics: ``(windows, samples, 12)`` floats.
        place: ``(batch,)`` int64, where each sample is among ``windows x samples``.
    """

    user_codes: Tensor
    user_values: Tensor
    item_codes: Tensor
    item_values: Tensor
    event: Tensor
    level: Tensor
    event_statistics: Tensor
    target: Tensor
    position: Tensor
    statistics: Tensor
    place: Tensor


def window_starts(length: Tensor, window: int) -> Tensor:
    """``(n,)`` int64: the first event that a sample reads after ``length`` (n,) events.

    Windows begin at every half of their length, so that a sample reads all events, or at least half
    a window of them, and its window depends on nothing but its place in the user's history.
    """
    step = window - window // 2
    return step * ((length - window).clamp(min=0) + step - 1).div(step, rounding_mode="floor")


class StreamReader:
    """Gathers :class:`StreamBatch` from a log.

    Args:
        log: The prepared log.
        window: Most events in one window, at least 2.
        device: Where batches are built.
        ratings: As of :class:`corellarec.crm.batch.CrmReader`.
    """

    def __init__(
        self, log: Log, window: int, device: torch.device, *, ratings: bool = True
    ) -> None:
        self.log, self.window, self.device, self.ratings = log, window, device, ratings
        self.user_codes = torch.cat([log.user_codes, log.user_codes[:1] * 0])
        self.user_values = torch.cat([log.user_values, log.user_values[:1] * 0])
        self.distinct = Distinct(log.items.height, torch.device("cpu"))

    def over(self, log: Log) -> Self:
        """As :meth:`corellarec.crm.batch.Reader.over`."""
        found = copy.copy(self)
        found.log = log
        return found

    def parts(
        self, samples: Samples, size: int, generator: torch.Generator | None = None
    ) -> list[Tensor]:
        """As :meth:`corellarec.crm.batch.Reader.parts`.

        Windows of users with histories of like length go together. A window stays whole unless it
        has more than ``size`` samples.
        """
        if not len(samples):
            return []
        _, key = self._windows(samples)
        order = key.argsort(stable=True)
        key = key[order]
        rank = torch.arange(len(key)) - torch.searchsorted(key, key)
        _, piece, count = torch.stack([key, rank // size]).unique_consecutive(
            return_inverse=True, return_counts=True, dim=1
        )
        length = (samples.end - samples.begin)[order]
        events = torch.zeros(len(count), dtype=torch.long).scatter_reduce_(0, piece, length, "amax")
        like = events.double()
        if generator is not None:
            like += LIKE * torch.rand(len(events), generator=generator)
        by_length = like.argsort(stable=True)
        # A part ends with the piece that fills it: as many parts, whatever the order.
        cost = count.maximum(events.clamp(max=self.window) // 2)[by_length].cumsum(0)
        _, pieces = ((cost - 1) // size).unique_consecutive(return_counts=True)
        rows = order.split(count.tolist())
        numbers = by_length.split(pieces.tolist())
        parts = [torch.cat([rows[i] for i in part.tolist()]) for part in numbers]
        if generator is None:
            return parts
        return [parts[i] for i in torch.randperm(len(parts), generator=generator).tolist()]

    def _windows(self, samples: Samples) -> tuple[Tensor, Tensor]:
        """``(n,)`` the first event of each sample's window, and a number for each window."""
        length = samples.end - samples.begin
        begin = samples.begin + window_starts(length, self.window)
        return begin, samples.user * (len(self.log.history_item) + 1) + begin

    def __call__(self, samples: Samples) -> StreamBatch:
        """The batch of ``samples``, in any order."""
        log = self.log
        begin, key = self._windows(samples)
        windows, window = key.unique(return_inverse=True)
        count = torch.bincount(window, minlength=len(windows))
        order = window.argsort(stable=True)
        slot = torch.empty_like(order)
        slot[order] = torch.arange(len(order)) - (count.cumsum(0) - count)[window[order]]
        width = int(count.max())
        place = window * width + slot
        of_window = torch.zeros(len(windows), dtype=torch.long).scatter_(
            0, window, torch.arange(len(window))
        )
        start, position = begin[of_window], samples.end - begin
        events = torch.zeros(len(windows), dtype=torch.long)
        events = events.scatter_reduce_(0, window, position, "amax")
        rows = start.unsqueeze(1) + torch.arange(int(events.max()))
        rows = rows.minimum((start + events - 1).unsqueeze(1)).clamp(min=0)
        flat = rows.flatten()
        # Where a window has no events, ``flat`` is a row of another user.
        first = samples.begin[of_window].repeat_interleave(rows.shape[1]).minimum(flat)
        user = samples.user[of_window]
        of_events = Samples(
            log.history_user[flat].long(),
            log.history_item[flat].long(),
            first,
            flat,
            log.history_rows[flat],
        )
        # Slots without a sample repeat the window's one of ``of_window``.
        sample = of_window.unsqueeze(1).repeat(1, width).flatten()
        sample[place] = torch.arange(len(place))
        asked = samples[sample]
        level, read_as = said_of_history(log, ratings=self.ratings)
        items = torch.cat([of_events.item, asked.item])
        distinct, number = self.distinct(items)
        shape = len(windows), width
        batch = StreamBatch(
            user_codes=self.user_codes[user],
            user_values=self.user_values[user],
            item_codes=log.item_codes[distinct],
            item_values=log.item_values[distinct],
            event=number[: len(flat)].view(rows.shape),
            level=read_as[level[flat].long()].view(rows.shape),
            event_statistics=log.statistics(of_events).view(*rows.shape, len(STATISTICS)),
            target=number[len(flat) :].view(shape),
            position=position[sample].view(shape),
            statistics=log.statistics(asked).view(*shape, len(STATISTICS)),
            place=place,
        )
        return StreamBatch(*(column.to(self.device) for column in batch))
