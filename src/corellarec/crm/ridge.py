"""Ridge regression of a user's answers on the items they were given to, learned end to end."""

from typing import Any

import torch
from torch import Tensor, nn

from corellarec.crm.layers import Dropout


class _Solve(torch.autograd.Function):
    """``A^-1 b`` for symmetric positive definite matrices; its backward pass factors none again."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, right: Tensor) -> Tensor:  # noqa: ANN401 (autograd's)
        factor = torch.linalg.cholesky_ex(matrix)[0]
        solution = torch.cholesky_solve(right, factor)
        ctx.save_for_backward(factor, solution)
        return solution

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        factor, solution = ctx.saved_tensors
        right = torch.cholesky_solve(gradients[0], factor)
        return -right @ solution.mT, right


class Ridge(nn.Module):
    """A user's factors are regressed anew for each sample on the events before it, in closed form.

    An event has a key ``k``, made of its item, and an answer ``y``; a sample has the key ``q`` of
    its item. The user's factors are ``f = (I + sum k k')^-1 sum k y``. The outputs are ``q' f``,
    what the user would answer, and ``q' (I + sum k k')^-1 q``, how uncertain that is. Keys and
    answers are learned through the regression, and with the keys' lengths its penalty.

    Args:
        width: Width of items and events.
        rank: Width of a key.
        dropout: Share of each item's elements zeroed in training before they make its key.

    See also: von Oswald et al. 2023 (mesa layer), https://arxiv.org/abs/2309.05858; Li et al. 2010
    (LinUCB), https://arxiv.org/abs/1003.0146
    """

    def __init__(self, width: int, rank: int, dropout: float) -> None:
        super().__init__()
        self.key = nn.Linear(width, rank, bias=False)
        self.answer = nn.Linear(width, 1)
        self.dropout = Dropout(dropout)

    def forward(self, items: Tensor, events: Tensor, targets: Tensor, position: Tensor) -> Tensor:
        """Answer for ``targets``.

        Args:
            items: ``(windows, events, width)``, of the events.
            events: Likewise: items with what the user said of them.
            targets: ``(windows, samples, width)`` items.
            position: ``(windows, samples)`` int64, how many of the events come before.

        Returns ``(windows, samples, 2)``: the answer and its uncertainty.
        """
        with torch.autocast(items.device.type, enabled=False):
            key, query = (self.key(self.dropout(side)) for side in (items, targets))
            pair = torch.cat([key, self.answer(events.float())], 2)
            products = (key.unsqueeze(3) * pair.unsqueeze(2)).flatten(2)
            before = torch.arange(key.shape[1], device=key.device) < position.unsqueeze(2)
            sums = (before.to(products.dtype) @ products).unflatten(2, (key.shape[2], -1))
            matrix = sums[..., :-1] + torch.eye(key.shape[2], device=key.device)
            solved: Tensor = _Solve.apply(matrix, query.unsqueeze(3))  # pyright: ignore
            return (solved * torch.stack([sums[..., -1], query], 3)).sum(2)
