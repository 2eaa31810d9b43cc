"""Deep & Cross Network, version 2, over features and history."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from corellarec.crm.batch import CrmBatch
from corellarec.crm.embedding import FusedEmbedding
from corellarec.crm.history import HistoryPooling
from corellarec.data.log import FeatureLayout


class CrmOutput(NamedTuple):
    """What every CRM returns.

    Args:
        logit: ``(batch,)`` floats; the sigmoid is p(positive).
        layers: Hidden layers by name, each ``(batch, width)``.
    """

    logit: Tensor
    layers: dict[str, Tensor]


class CrossNetwork(nn.Module):
    """Explicit feature crossing of bounded degree (DCN-V2).

    Layer l computes ``x[l+1] = x[0] * (W[l] x[l] + b[l]) + x[l]``.

    Args:
        width: Length of the concatenated features; preserved.
        layers: Number of cross layers, at least 1.

    Raises:
        ValueError: If ``layers`` is below 1.

    Source: Wang et al. 2021, https://arxiv.org/abs/2008.13535
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"layers must be at least 1, found {layers}")
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))

    def forward(self, features: Tensor) -> list[Tensor]:
        """Cross ``(batch, width)`` floats; returns the output of every layer, of the same shape."""
        outputs, crossed = [], features
        for layer in self.layers:
            crossed = features * layer(crossed) + crossed
            outputs.append(crossed)
        return outputs


class Deep(nn.Module):
    """A multi-layer perceptron with ReLU and dropout.

    Args:
        width: Length of the input.
        widths: Length of each layer's output.
        dropout: Share of outputs zeroed in training.
    """

    def __init__(self, width: int, widths: Sequence[int], dropout: float) -> None:
        super().__init__()
        sizes = [width, *widths]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout))
            for before, after in zip(sizes, sizes[1:], strict=False)
        )

    def forward(self, features: Tensor) -> list[Tensor]:
        """Map ``(batch, width)`` floats; returns the output of every layer."""
        outputs = []
        for layer in self.layers:
            features = layer(features)
            outputs.append(features)
        return outputs


class DCNv2(nn.Module):
    """DCN-V2 in its parallel form, with the user's history as further features.

    Features are the embeddings of the user's and the item's fields and the pooled history. A
    history row is the sum of its item's field embeddings and the embedding of whether the user
    liked it; the target, as the attention sees it, is the sum of its own.

    Args:
        user_layout, item_layout: Features of users and items.
        embedding_dim: Width of an embedding.
        history: How the history is pooled, see :class:`HistoryPooling`.
        cross_layers: Number of full-rank cross layers.
        deep_layers: Widths of the deep part.
        dropout: Dropout of the deep part.
        id_dropout: Share of user and item ids dropped in training.

    Source: Wang et al. 2021, https://arxiv.org/abs/2008.13535
    """

    def __init__(
        self,
        user_layout: Sequence[FeatureLayout],
        item_layout: Sequence[FeatureLayout],
        *,
        embedding_dim: int,
        history: Literal["attention", "mean"],
        cross_layers: int,
        deep_layers: Sequence[int],
        dropout: float,
        id_dropout: float,
    ) -> None:
        super().__init__()
        self.user_embedding = FusedEmbedding(user_layout, embedding_dim, id_dropout)
        self.item_embedding = FusedEmbedding(item_layout, embedding_dim, id_dropout)
        self.liked = nn.Embedding(2, embedding_dim)
        nn.init.normal_(self.liked.weight, std=0.01)
        self.pooling = HistoryPooling(embedding_dim, history)
        width = (len(user_layout) + len(item_layout)) * embedding_dim + self.pooling.width
        self.cross = CrossNetwork(width, cross_layers)
        self.deep = Deep(width, deep_layers, dropout)
        self.head = nn.Linear(width + (deep_layers[-1] if deep_layers else 0), 1)
        self.layer_widths = {f"cross{i + 1}": width for i in range(cross_layers)} | {
            f"deep{i + 1}": size for i, size in enumerate(deep_layers)
        }

    def forward(self, batch: CrmBatch) -> CrmOutput:
        """Score a batch; returns logits and the layers named in ``layer_widths``."""
        items = self.item_embedding(batch.item_codes)
        users = self.user_embedding(batch.user_codes)
        summed = items.sum(1)
        rows = summed[batch.history] + self.liked(batch.liked)
        pooled = self.pooling(summed[batch.target], rows, batch.mask)
        features = torch.cat([users.flatten(1), items[batch.target].flatten(1), pooled], 1)
        crossed, deep = self.cross(features), self.deep(features)
        logit = self.head(torch.cat([crossed[-1], *deep[-1:]], 1)).squeeze(1)
        layers = {f"cross{i + 1}": layer for i, layer in enumerate(crossed)}
        layers |= {f"deep{i + 1}": layer for i, layer in enumerate(deep)}
        return CrmOutput(logit, layers)
