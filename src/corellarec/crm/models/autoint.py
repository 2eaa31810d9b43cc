"""AutoInt."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from corellarec.config import NetworkConfig
from corellarec.crm.architecture import Architecture
from corellarec.crm.layers import MLP, attend, named
from corellarec.crm.model import CrmOutput, FieldEncoder


class InteractingLayer(nn.Module):
    """Fields attend to each other; a projection of the input is added, then ReLU.

    Args:
        inputs: Width of a field.
        width: Width of a field after it, all heads together.
        heads: Number of heads; divides ``width``.

    Raises:
        ValueError: If ``heads`` does not divide ``width``.

    Source: Song et al. 2019, https://arxiv.org/abs/1810.11921
    """

    def __init__(self, inputs: int, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads ({heads}) must divide the width of the attention ({width})")
        self.width, self.heads = width, heads
        self.project = nn.Linear(inputs, 4 * width, bias=False)

    def forward(self, fields: Tensor) -> Tensor:
        """Map ``(batch, fields, inputs)`` to ``(batch, fields, width)``."""
        *projected, residual = self.project(fields).split(self.width, 2)
        query, key, value = (p.unflatten(2, (self.heads, -1)).transpose(1, 2) for p in projected)
        # The paper does not divide the products by the root of the width.
        attended = attend(query, key, value, scale=1.0)
        return (attended.transpose(1, 2).flatten(2) + residual).relu()


class AutoInt(nn.Module):
    """Self-attention over the fields, with a deep part beside it (AutoInt+).

    Its linear term is the first-order part of :class:`corellarec.crm.model.Crm`.

    Args:
        fields, dim: Shape of the input.
        layers: Number of interacting layers.
        width: Width of a field in them.
        heads: Number of heads; divides ``width``.
        deep_layers: Widths of the deep part; none is plain AutoInt.
        dropout: Dropout of the deep part.

    Source: Song et al. 2019, https://arxiv.org/abs/1810.11921
    """

    def __init__(
        self,
        fields: int,
        dim: int,
        *,
        layers: int,
        width: int,
        heads: int,
        deep_layers: Sequence[int],
        dropout: float,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            InteractingLayer(width if number else dim, width, heads) for number in range(layers)
        )
        self.deep = MLP(fields * dim, deep_layers, dropout)
        beside = self.deep.width if deep_layers else 0
        self.head = nn.Linear(fields * width + beside, 1)
        self.layer_widths = named("attention", [fields * width] * layers)
        self.layer_widths |= named("deep", deep_layers)

    def forward(self, fields: Tensor) -> CrmOutput:
        """Score ``(batch, fields, dim)`` floats."""
        attended, hidden = [], fields
        for layer in self.layers:
            hidden = layer(hidden)
            attended.append(hidden.flatten(1))
        deep = self.deep(fields.flatten(1))
        logit = self.head(torch.cat([attended[-1], *deep[-1:]], 1)).squeeze(1)
        return CrmOutput(logit, named("attention", attended) | named("deep", deep))


def build(config: NetworkConfig, encoder: FieldEncoder) -> AutoInt:
    """The configured network over the fields of ``encoder``."""
    return AutoInt(
        encoder.fields,
        config.embedding_dim,
        deep_layers=config.deep_layers,
        dropout=config.dropout,
        **config.autoint.model_dump(),
    )


ARCHITECTURE = Architecture(build, has_first_order=True, search={"crm.autoint.layers": (1, 2, 3)})
