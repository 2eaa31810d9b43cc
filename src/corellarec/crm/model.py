"""A CRM: fields of embeddings, then a network over them."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from corellarec.crm.batch import CrmBatch
from corellarec.crm.embedding import FusedEmbedding
from corellarec.crm.layers import compute_dtype, gather
from corellarec.data.levels import FIRST
from corellarec.data.log import Features
from corellarec.data.statistics import STATISTICS


class CrmOutput(NamedTuple):
    """What every CRM returns.

    Args:
        logit: ``(batch,)`` floats; the sigmoid is p(positive).
        layers: Hidden layers by name, each ``(batch, width)``.
        ratings: ``(batch, levels - 1)`` floats, logits of a rating above each level but the
            highest (see :mod:`corellarec.data.levels`), which stage 1 trains besides; None where
            there are none.
    """

    logit: Tensor
    layers: dict[str, Tensor]
    ratings: Tensor | None = None


class FieldEncoder(nn.Module):
    """A batch as a matrix of fields: the user's features, the target's, the pooled history.

    A history row is the sum of its item's fields and of the embedding of what the user said of it;
    the target, as the pooling sees it, is the sum of its own.

    Args:
        features: What there is of users and items.
        dim: Width of an embedding.
        pooling: Makes ``pooling.fields`` vectors of the target and the history, see
            :class:`corellarec.crm.history.MeanPooling`.
        id_dropout: Share of user and item ids dropped in training.
        statistics: Whether the statistics of user and item are a field, the last.
    """

    def __init__(
        self,
        features: Features,
        dim: int,
        pooling: nn.Module,
        id_dropout: float,
        *,
        statistics: bool = False,
    ) -> None:
        super().__init__()
        self.embedding = FusedEmbedding(features, dim, id_dropout)
        self.ratings = len(features.ratings)
        self.level = nn.Parameter(torch.empty(FIRST + self.ratings, dim).normal_(std=0.01))
        self.pooling = pooling
        self.user_fields = self.embedding.user.fields
        own = self.user_fields + self.embedding.item.fields
        self.fields = own + int(pooling.fields)  # pyright: ignore[reportArgumentType]
        self.statistics = None
        if statistics:
            self.statistics = nn.Linear(len(STATISTICS), dim)
            self.fields += 1

    def forward(self, batch: CrmBatch) -> Tensor:
        """The fields of a batch, ``(batch, fields, dim)``."""
        users, items = self.embedding(batch)
        summed = items.sum(1)
        if not torch.is_grad_enabled():  # in training, gradients of an item are added in fp32
            dtype = compute_dtype(users)
            users, items = users.to(dtype), items.to(dtype)
        # Every distinct item with every level: one gather takes both.
        tokens = (summed.unsqueeze(1) + self.level).flatten(0, 1)
        targets = gather(items.flatten(1), batch.target).unflatten(1, items.shape[1:])
        history = len(self.level) * batch.history + batch.level
        target = gather(summed, batch.target)
        pooled = self.pooling(target, tokens, history, batch.mask)
        fields = [users, targets, pooled.to(users.dtype)]
        if self.statistics is not None:
            fields.append(self.statistics(batch.statistics).unsqueeze(1).to(users.dtype))
        return torch.cat(fields, 1)


class Crm(nn.Module):
    """A network over the fields of a batch, and a linear term beside it where there is one.

    Args:
        encoder: Makes the fields.
        network: Maps ``(batch, fields, dim)`` to :class:`CrmOutput`; its ``layer_widths`` names
            the layers.
        first_order: An encoder of width 1, whose fields are added to the logit.
        dtype: Type of the products; weights and sums stay in fp32.
    """

    def __init__(
        self,
        encoder: FieldEncoder,
        network: nn.Module,
        first_order: FieldEncoder | None,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.encoder, self.network, self.first_order = encoder, network, first_order
        self.dtype = dtype
        self.layer_widths: dict[str, int] = network.layer_widths  # pyright: ignore
        *_, self.last = self.layer_widths
        self.rating = None
        if encoder.ratings > 1:
            self.rating = nn.Linear(self.layer_widths[self.last], encoder.ratings - 1)

    def forward(self, batch: CrmBatch) -> CrmOutput:
        """Score a batch; returns fp32 logits and the layers named in ``layer_widths``."""
        device = batch.target.device.type
        with torch.autocast(device, self.dtype, enabled=self.dtype != torch.float32):
            out = self.network(self.encoder(batch).to(self.dtype))
        logit = out.logit.float()
        if self.first_order is not None:
            logit = logit + self.first_order(batch).sum((1, 2))
        # In training alone: nothing else asks what the rating would be.
        ratings = None
        if self.rating is not None and torch.is_grad_enabled():
            ratings = self.rating(out.layers[self.last].float())
        return CrmOutput(logit, out.layers, ratings)
