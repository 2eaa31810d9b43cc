"""A user's history as one vector per target."""

from typing import Literal

import torch
from torch import Tensor, nn


class AttentionScore(nn.Module):
    """``MLP([q, k, q * k])`` with one hidden layer, its first product split in three.

    The part of ``q`` is then computed once a sample, not once a history row, and nothing is
    concatenated.

    Args:
        dim: Width of q and k.
        hidden: Width of the hidden layer.
    """

    def __init__(self, dim: int, hidden: int = 64) -> None:
        super().__init__()
        self.query = nn.Linear(dim, hidden)
        self.row = nn.Linear(dim, hidden, bias=False)
        self.product = nn.Linear(dim, hidden, bias=False)
        self.out = nn.Linear(hidden, 1)

    def forward(self, target: Tensor, rows: Tensor) -> Tensor:
        """Score ``rows`` (batch, length, dim) for ``target`` (batch, dim): (batch, length)."""
        query = target.unsqueeze(1)
        hidden = self.query(query) + self.row(rows) + self.product(query * rows)
        return self.out(hidden.relu()).squeeze(2)


class HistoryPooling(nn.Module):
    """Pool the embedded history rows, attended to by the target or averaged.

    Attention is DIN's: a small network scores each history row from target ``q`` and row ``k`` as
    ``w(k) = MLP([q, k, q * k])``; the weights are normalised by a softmax. (DIN's ``q - k`` adds
    nothing that a linear layer over ``q`` and ``k`` does not have.) The output is the weighted
    mean, followed by the plain mean, which tells how often the user likes anything.

    Args:
        dim: Width of a row and of the target.
        kind: ``attention`` or ``mean``.

    Source: Zhou et al. 2018, https://arxiv.org/abs/1706.06978
    """

    def __init__(self, dim: int, kind: Literal["attention", "mean"]) -> None:
        super().__init__()
        self.width = 2 * dim if kind == "attention" else dim
        self.score = AttentionScore(dim) if kind == "attention" else None

    def forward(self, target: Tensor, rows: Tensor, mask: Tensor) -> Tensor:
        """Pool ``rows`` (batch, length, dim) for ``target`` (batch, dim), where ``mask`` is True.

        Returns ``(batch, width)`` floats; zeros for an empty history.
        """
        present = mask.to(rows.dtype)
        mean = torch.einsum("bl,bld->bd", present, rows) / present.sum(1, keepdim=True).clamp(min=1)
        if self.score is None:
            return mean
        score = self.score(target, rows)
        # A finite floor, not -inf: the softmax of an empty history must not be NaN.
        weight = score.masked_fill(~mask, -1e9).softmax(1) * present
        return torch.cat([torch.einsum("bl,bld->bd", weight, rows), mean], 1)
