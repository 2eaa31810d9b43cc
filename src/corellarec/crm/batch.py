"""What a CRM reads: a few gathers from the log's tensors, no per-sample work."""

from typing import NamedTuple

import torch
from torch import Tensor

from corellarec.data.log import Log, Samples


class CrmBatch(NamedTuple):
    """A batch of samples; every distinct item's codes come once.

    Args:
        user_codes: ``(batch, user columns)`` int32.
        item_codes: ``(distinct items, item columns)`` int32.
        target: ``(batch,)`` int64, row of ``item_codes``.
        history: ``(batch, length)`` int64, rows of ``item_codes``, newest first.
        liked: ``(batch, length)`` int64, label of each history row.
        mask: ``(batch, length)`` bool, whether a history row exists.
    """

    user_codes: Tensor
    item_codes: Tensor
    target: Tensor
    history: Tensor
    liked: Tensor
    mask: Tensor


class CrmReader:
    """Gathers :class:`CrmBatch` from a log whose columns lie on the models' device.

    Args:
        log: The prepared log.
        history_length: Most rows of history.
        device: Where batches are built.
    """

    def __init__(self, log: Log, history_length: int, device: torch.device) -> None:
        self.device = device
        self.history_length = history_length
        self.item = log.history_item.to(device)
        self.label = log.history_label.to(device)
        self.item_codes = log.item_codes.to(device)
        # A last row of zeros is the user nobody knows; number -1 picks it.
        unknown = log.user_codes.new_zeros(1, log.user_codes.shape[1])
        self.user_codes = torch.cat([log.user_codes, unknown]).to(device)
        self.back = torch.arange(1, history_length + 1, device=device)

    def window(self, samples: Samples) -> tuple[Tensor, Tensor, Tensor]:
        """The last rows of each sample's history, newest first.

        Returns ``(batch, length)`` item numbers (int32), labels (int8), and whether there is such
        a row (bool); where there is none, item and label are of some other row.
        """
        rows = samples.end.to(self.device).unsqueeze(1) - self.back
        mask = rows >= samples.begin.to(self.device).unsqueeze(1)
        rows = rows.clamp(min=0)
        return self.item[rows], self.label[rows], mask

    def __call__(self, samples: Samples) -> CrmBatch:
        """The batch of ``samples``, which may lie on the CPU."""
        items, liked, mask = self.window(samples)
        target = samples.item.to(self.device)
        met = torch.cat([target.unsqueeze(1), items.long()], 1)
        distinct, place = met.unique(return_inverse=True)
        return CrmBatch(
            user_codes=self.user_codes[samples.user.to(self.device)],
            item_codes=self.item_codes[distinct],
            target=place[:, 0],
            history=place[:, 1:],
            liked=liked.long(),
            mask=mask,
        )
