"""xDeepFM."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from corellarec.config import NetworkConfig
from corellarec.crm.architecture import Architecture
from corellarec.crm.layers import MLP, named
from corellarec.crm.model import CrmOutput, FieldEncoder


class CompressedInteractionNetwork(nn.Module):
    """Explicit interactions of fields, vector by vector (CIN).

    Layer k holds ``x[k][h] = sum_ij W[k][h, i, j] x[0][i] * x[k-1][j] + b[k][h]``, products
    element by element. The output of a layer is the sum of each of its vectors.

    Args:
        fields: Number of fields.
        layers: Number of vectors of each layer, at least one layer.

    Raises:
        ValueError: If there is no layer.

    Source: Lian et al. 2018, https://arxiv.org/abs/1803.05170
    """

    def __init__(self, fields: int, layers: Sequence[int]) -> None:
        super().__init__()
        if not layers:
            raise ValueError("the compressed interaction network needs at least one layer")
        before = [fields, *layers]
        self.layers = nn.ModuleList(
            nn.Linear(fields * inputs, outputs)
            for inputs, outputs in zip(before, layers, strict=False)
        )

    def forward(self, fields: Tensor) -> list[Tensor]:
        """Interact ``(batch, fields, dim)``; returns ``(batch, vectors)`` for each layer."""
        base = fields.transpose(1, 2)  # (batch, dim, fields): the products are rows of a matrix
        hidden, outputs = base, []
        for layer in self.layers:
            products = base.unsqueeze(3) * hidden.unsqueeze(2)
            hidden = layer(products.flatten(2))
            outputs.append(hidden.sum(1))
        return outputs


class XDeepFM(nn.Module):
    """A compressed interaction network and a deep part on the same embeddings.

    Its linear term is the first-order part of :class:`corellarec.crm.model.Crm`.

    Args:
        fields, dim: Shape of the input.
        cin_layers: Number of vectors of each layer of the compressed interaction network.
        deep_layers: Widths of the deep part.
        dropout: Dropout of the deep part.

    Source: Lian et al. 2018, https://arxiv.org/abs/1803.05170
    """

    def __init__(
        self,
        fields: int,
        dim: int,
        *,
        cin_layers: Sequence[int],
        deep_layers: Sequence[int],
        dropout: float,
    ) -> None:
        super().__init__()
        self.cin = CompressedInteractionNetwork(fields, cin_layers)
        self.deep = MLP(fields * dim, deep_layers, dropout)
        self.head = nn.Linear(sum(cin_layers) + self.deep.width, 1)
        self.layer_widths = named("cin", cin_layers) | named("deep", deep_layers)

    def forward(self, fields: Tensor) -> CrmOutput:
        """Score ``(batch, fields, dim)`` floats."""
        features = fields.flatten(1)
        cin, deep = self.cin(fields), self.deep(features)
        last = (deep or [features])[-1]
        logit = self.head(torch.cat([*cin, last], 1)).squeeze(1)
        return CrmOutput(logit, named("cin", cin) | named("deep", deep))


def build(config: NetworkConfig, encoder: FieldEncoder) -> XDeepFM:
    """The configured network over the fields of ``encoder``."""
    return XDeepFM(
        encoder.fields,
        config.embedding_dim,
        deep_layers=config.deep_layers,
        dropout=config.dropout,
        **config.xdeepfm.model_dump(),
    )


ARCHITECTURE = Architecture(
    build,
    has_first_order=True,
    search={"crm.xdeepfm.cin_layers": ((16,), (32,), (16, 16), (32, 32))},
)
