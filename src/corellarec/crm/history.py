"""A user's history as a few vectors per target."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from corellarec.crm.layers import (
    Dropout,
    attend,
    compute_dtype,
    equal_weights,
    gather,
    mean_of_rows,
)


class MeanPooling(nn.Module):
    """The mean of the history rows, one field."""

    fields = 1

    def forward(self, target: Tensor, table: Tensor, index: Tensor, mask: Tensor) -> Tensor:
        """Pool the rows ``table[index]`` where ``mask`` is True; the target is not looked at.

        Args:
            target: ``(batch, dim)`` floats.
            table: ``(tokens, dim)`` floats.
            index: ``(batch, length)`` int64.
            mask: ``(batch, length)`` bool.

        Returns ``(batch, 1, dim)`` floats; zeros for an empty history.
        """
        return mean_of_rows(table, index, mask).unsqueeze(1)


class AttentionScore(nn.Module):
    """``MLP([q, k, q * k])`` with one hidden layer.

    The part of ``q`` is computed once a sample, not once a history row.

    Args:
        dim: Width of q and k.
        hidden: Width of the hidden layer.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.query = nn.Linear(dim, hidden)
        self.row = nn.Linear(2 * dim, hidden, bias=False)
        self.out = nn.Linear(hidden, 1)

    def forward(self, target: Tensor, rows: Tensor) -> Tensor:
        """Score ``rows`` (batch, length, dim) for ``target`` (batch, dim): (batch, length)."""
        query = target.unsqueeze(1)
        hidden = self.row(torch.cat([rows, query * rows], 2)) + self.query(query)
        return self.out(hidden.relu_()).squeeze(2)


class TargetAttention(nn.Module):
    """DIN's attention: history rows weighted by what they have to do with the target.

    A small network scores each history row from target ``q`` and row ``k`` as
    ``w(k) = MLP([q, k, q * k])``; the weights are normalised by a softmax. (DIN's ``q - k`` adds
    nothing that a linear layer over ``q`` and ``k`` does not have.) Two fields: the weighted mean,
    and the plain mean, which tells how often the user likes anything.

    Args:
        dim: Width of a row and of the target.
        hidden: Width of the scoring network's hidden layer.

    Source: Zhou et al. 2018, https://arxiv.org/abs/1706.06978
    """

    fields = 2

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.score = AttentionScore(dim, hidden)

    def forward(self, target: Tensor, table: Tensor, index: Tensor, mask: Tensor) -> Tensor:
        """Pool as :class:`MeanPooling` does; returns ``(batch, 2, dim)`` floats."""
        # Cast before in scoring, where it halves the gather; after in training, where gradients
        # of the same row are to be added in fp32.
        dtype = compute_dtype(table)
        rows = gather(table if table.requires_grad else table.to(dtype), index).to(dtype)
        # A finite floor, not -inf: the softmax of an empty history must not be NaN.
        score = self.score(target.to(rows.dtype), rows).float().masked_fill(~mask, -1e9)
        weights = torch.stack([score.softmax(1) * mask, equal_weights(mask)], 1)
        return torch.bmm(weights.to(rows.dtype), rows)


class Attention(nn.Module):
    """Multi-head attention of some positions to all.

    Args:
        dim: Width of a position.
        heads: Number of heads; divides ``dim``.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.dim, self.heads = dim, heads
        self.inward = nn.Linear(dim, 3 * dim)  # queries, keys, values
        self.outward = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.inward.weight)

    def forward(self, positions: Tensor, whole: Tensor, mask: Tensor) -> Tensor:
        """Let ``positions`` (batch, n, dim) attend to ``whole`` (batch, length, dim)."""
        weight, bias, dim = self.inward.weight, self.inward.bias, self.dim
        query = linear(positions, weight[:dim], bias[:dim]).unflatten(2, (self.heads, -1))
        pair = linear(whole, weight[dim:], bias[dim:]).unflatten(2, (2, self.heads, -1))
        key, value = pair.permute(2, 0, 3, 1, 4)
        attended = attend(query.transpose(1, 2), key, value, mask[:, None, None])
        return self.outward(attended.transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """One post-norm transformer block, for as many of the positions as are needed.

    Args:
        dim: Width of a position.
        heads: Number of attention heads; divides ``dim``.
        dropout: Dropout in the feed-forward part.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(dim, heads)
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.ReLU(), Dropout(dropout), nn.Linear(4 * dim, dim)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))

    def forward(self, positions: Tensor, whole: Tensor, mask: Tensor) -> Tensor:
        """Let ``positions`` (batch, n, dim) attend to ``whole`` (batch, length, dim)."""
        positions = self.norms[0](positions + self.attention(positions, whole, mask))
        return self.norms[1](positions + self.feed_forward(positions))


class TransformerPooling(nn.Module):
    """A transformer over the history and the target: what it makes of the target's position.

    Positions count back from the target, so that they mean the same at any length of history. The
    last block computes the target's position alone. Two fields: that position's output, and the
    plain mean of the rows.

    Args:
        dim: Width of a row and of the target.
        length: Most rows of history.
        heads: Number of attention heads; divides ``dim``.
        blocks: Number of transformer blocks.
        dropout: Dropout in the blocks.

    Raises:
        ValueError: If ``heads`` does not divide ``dim``.

    Source: Chen et al. 2019 (BST), https://arxiv.org/abs/1905.06874
    """

    fields = 2

    def __init__(self, dim: int, length: int, heads: int, blocks: int, dropout: float) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"heads ({heads}) must divide the embedding's width ({dim})")
        self.place = nn.Parameter(torch.empty(length + 1, dim).normal_(std=0.01))
        self.blocks = nn.ModuleList(TransformerBlock(dim, heads, dropout) for _ in range(blocks))

    def forward(self, target: Tensor, table: Tensor, index: Tensor, mask: Tensor) -> Tensor:
        """Pool as :class:`MeanPooling` does; returns ``(batch, 2, dim)`` floats."""
        rows = gather(table, index)
        plain = torch.bmm(equal_weights(mask).unsqueeze(1), rows)
        whole = torch.cat([target.unsqueeze(1), rows], 1) + self.place
        whole, there = whole.to(compute_dtype(table)), pad(mask, (1, 0), value=True)
        for block in self.blocks[:-1]:
            whole = block(whole, whole, there)
        attended = self.blocks[-1](whole[:, :1], whole, there)
        return torch.cat([attended.to(plain.dtype), plain], 1)
