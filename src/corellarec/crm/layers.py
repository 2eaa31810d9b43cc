"""What several networks are made of."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, scaled_dot_product_attention

RESOLUTION = 1 << 15  # dropout takes 15 random bits an element


class Dropout(nn.Module):
    """Dropout whose random numbers cost little on a CPU: one draw for four elements.

    Args:
        share: Share of elements zeroed in training, to the next 1 / 32768; the others are scaled.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, features: Tensor) -> Tensor:
        """Zero a share of the elements, of any shape."""
        if not self.training or not self.share:
            return features
        if features.device.type != "cpu":
            return nn.functional.dropout(features, self.share)
        limit = round(self.share * RESOLUTION)
        count = features.numel()
        bits = torch.empty((count + 3) // 4, dtype=torch.int64).random_().view(torch.int16)
        kept = (bits[:count] & (RESOLUTION - 1)) >= limit
        scale = RESOLUTION / max(1, RESOLUTION - limit)
        return features * (kept.view(features.shape).to(features.dtype) * scale)


class MLP(nn.Module):
    """A multi-layer perceptron with ReLU and dropout after every layer.

    Args:
        width: Length of the input.
        widths: Length of each layer's output.
        dropout: Share of outputs zeroed in training.
    """

    def __init__(self, width: int, widths: Sequence[int], dropout: float) -> None:
        super().__init__()
        sizes = [width, *widths]
        self.width = sizes[-1]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(before, after), nn.ReLU(), Dropout(dropout))
            for before, after in itertools.pairwise(sizes)
        )

    def forward(self, features: Tensor) -> list[Tensor]:
        """Map ``(batch, width)`` floats; returns the output of every layer."""
        outputs = []
        for layer in self.layers:
            features = layer(features)
            outputs.append(features)
        return outputs


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Scaled dot-product attention.

    On a CPU it is trained by plain products: heads are narrow and sequences short here, and the
    backward pass of torch's fused kernel takes six times as long in bf16.

    Args:
        query: ``(batch, heads, n, width)``.
        key: ``(batch, heads, length, width)``.
        value: ``(batch, heads, length, width)``.
        mask: Where to look, bool, broadcast to ``(batch, heads, n, length)``; None is everywhere.
        scale: Of the products; None is one over the root of ``width``.

    Returns ``(batch, heads, n, width)``.
    """
    if query.device.type != "cpu" or not torch.is_grad_enabled():
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    score = (query @ key.transpose(2, 3)).float() * factor
    if mask is not None:
        score = score.masked_fill(~mask, float("-inf"))
    return score.softmax(3).to(value.dtype) @ value


def gather(rows: Tensor, index: Tensor) -> Tensor:
    """``rows[index]`` for two-dimensional rows; its backward pass is several times faster."""
    return rows.index_select(0, index.flatten()).view(*index.shape, rows.shape[1])


class _WeightedBags(torch.autograd.Function):
    """Weighted sums of a table's rows, which are never laid side by side."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor, weight: Tensor) -> Tensor:  # noqa: ANN401 (autograd's)
        ctx.save_for_backward(index, weight)
        ctx.size = table.shape
        return embedding_bag(index, table, mode="sum", per_sample_weights=weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        index, weight = ctx.saved_tensors
        (gradient,) = gradients
        rows = (weight.unsqueeze(2) * gradient.unsqueeze(1)).flatten(0, 1)
        return gradient.new_zeros(ctx.size).index_add_(0, index.flatten(), rows), None, None


def equal_weights(mask: Tensor) -> Tensor:
    """Equal weights, summing to 1 over axis 1, where ``(batch, length)`` is True; else zeros."""
    return mask / mask.sum(1, keepdim=True).clamp(min=1)


def mean_of_rows(table: Tensor, index: Tensor, mask: Tensor) -> Tensor:
    """The mean of ``table[index]`` over axis 1 where ``mask`` is True; zeros where it nowhere is.

    Args:
        table: ``(rows, dim)`` floats.
        index: ``(batch, length)`` int64.
        mask: ``(batch, length)`` bool.
    """
    weight = equal_weights(mask).to(table.dtype)
    pooled: Tensor = _WeightedBags.apply(table, index, weight)  # pyright: ignore
    return pooled


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """The type that autocast computes products in, else the tensor's own."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype


def named(prefix: str, values: Sequence[Tensor] | Sequence[int]) -> dict:
    """Layers, or their widths, by name: the prefix and a number from 1."""
    return {f"{prefix}{i + 1}": value for i, value in enumerate(values)}
