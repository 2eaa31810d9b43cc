"""FinalMLP."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from corellarec.config import NetworkConfig
from corellarec.crm.architecture import DEEP_LAYERS, Architecture
from corellarec.crm.layers import MLP, named
from corellarec.crm.model import CrmOutput, FieldEncoder


class Gate(nn.Module):
    """Weighs every feature for one stream, by one of the fields: ``2 sigmoid(MLP(context)) * x``.

    Args:
        dim: Width of the context.
        width: Length of the features.
        hidden: Width of the hidden layer.
    """

    def __init__(self, dim: int, width: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def forward(self, context: Tensor, features: Tensor) -> Tensor:
        """Weigh ``features`` (batch, width) by ``context`` (batch, dim)."""
        return 2 * self.layers(context).sigmoid() * features


class BilinearFusion(nn.Module):
    """``w1 x + w2 y + b + sum over heads of x_h' W_h y_h``.

    Args:
        left, right: Widths of x and y.
        heads: Number of heads; divides both.

    Raises:
        ValueError: If ``heads`` does not divide both widths.

    Source: Mao et al. 2023, https://arxiv.org/abs/2304.00902
    """

    def __init__(self, left: int, right: int, heads: int) -> None:
        super().__init__()
        if left % heads or right % heads:
            raise ValueError(
                f"heads ({heads}) must divide both streams' widths, {left} and {right}"
            )
        self.heads = heads
        self.linear = nn.Linear(left + right, 1)
        shape = (heads, left // heads, right // heads)
        self.weight = nn.Parameter(nn.init.xavier_normal_(torch.empty(shape)))

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Fuse ``(batch, left)`` and ``(batch, right)``: ``(batch,)`` logits."""
        parts = left.unflatten(1, (self.heads, -1)), right.unflatten(1, (self.heads, -1))
        turned = torch.einsum("bhl,hlr->bhr", parts[0], self.weight)
        return self.linear(torch.cat([left, right], 1)).squeeze(1) + (turned * parts[1]).sum((1, 2))


class FinalMLP(nn.Module):
    """Two deep streams, one gated by the user's id, one by the item's, fused bilinearly.

    Args:
        fields, dim: Shape of the input.
        user_field, item_field: Places of the fields that gate.
        deep_layers, second_layers: Widths of the two streams.
        gate_hidden: Width of the gates' hidden layer.
        heads: Heads of the fusion; divides the width of both streams' last layers.
        dropout: Dropout of both streams.

    Source: Mao et al. 2023, https://arxiv.org/abs/2304.00902
    """

    def __init__(
        self,
        fields: int,
        dim: int,
        *,
        user_field: int,
        item_field: int,
        deep_layers: Sequence[int],
        second_layers: Sequence[int],
        gate_hidden: int,
        heads: int,
        dropout: float,
    ) -> None:
        super().__init__()
        width = fields * dim
        self.places = user_field, item_field
        self.gates = nn.ModuleList(Gate(dim, width, gate_hidden) for _ in range(2))
        self.deep = MLP(width, deep_layers, dropout)
        self.second = MLP(width, second_layers, dropout)
        self.fusion = BilinearFusion(self.deep.width, self.second.width, heads)
        self.layer_widths = named("second", second_layers) | named("deep", deep_layers)

    def forward(self, fields: Tensor) -> CrmOutput:
        """Score ``(batch, fields, dim)`` floats."""
        features = fields.flatten(1)
        gated = [
            gate(fields[:, place], features)
            for gate, place in zip(self.gates, self.places, strict=True)
        ]
        deep, second = self.deep(gated[0]), self.second(gated[1])
        logit = self.fusion((deep or gated[:1])[-1], (second or gated[1:])[-1])
        return CrmOutput(logit, named("second", second) | named("deep", deep))


def build(config: NetworkConfig, encoder: FieldEncoder) -> FinalMLP:
    """The configured network over the fields of ``encoder``."""
    return FinalMLP(
        encoder.fields,
        config.embedding_dim,
        user_field=0,
        item_field=encoder.user_fields,
        deep_layers=config.deep_layers,
        dropout=config.dropout,
        **config.finalmlp.model_dump(),
    )


ARCHITECTURE = Architecture(build, search={"crm.finalmlp.second_layers": DEEP_LAYERS})
