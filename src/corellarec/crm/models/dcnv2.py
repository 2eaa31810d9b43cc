"""Deep & Cross Network, version 2."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from corellarec.config import NetworkConfig
from corellarec.crm.architecture import Architecture
from corellarec.crm.layers import MLP, named
from corellarec.crm.model import CrmOutput, FieldEncoder


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
            crossed = torch.addcmul(crossed, features, layer(crossed))
            outputs.append(crossed)
        return outputs


class LowRankCrossNetwork(nn.Module):
    """Feature crossing by a gated mixture of low-rank experts (DCN-Mix).

    Layer l computes ``x[l+1] = sum_i g_i(x[l]) * x[0] * (E_i(x[l]) + b) + x[l]`` with the experts
    ``E_i(x) = U_i tanh(C_i tanh(V_i' x))`` and gates ``g`` from a softmax over them.

    Args:
        width: Length of the concatenated features; preserved.
        layers: Number of cross layers, at least 1.
        rank: Width of the experts' inner space.
        experts: Number of experts.

    Raises:
        ValueError: If ``layers`` is below 1.

    Source: Wang et al. 2021, section 4.2, https://arxiv.org/abs/2008.13535
    """

    def __init__(self, width: int, layers: int, rank: int, experts: int) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"layers must be at least 1, found {layers}")
        self.rank, self.experts = rank, experts
        self.inward = nn.ModuleList(
            nn.Linear(width, experts * rank, bias=False) for _ in range(layers)
        )
        self.inner = nn.ParameterList(
            nn.init.xavier_normal_(torch.empty(experts, rank, rank)) for _ in range(layers)
        )
        self.outward = nn.ModuleList(
            nn.Linear(experts * rank, width, bias=False) for _ in range(layers)
        )
        self.bias = nn.ParameterList(torch.zeros(width) for _ in range(layers))
        self.gate = nn.Linear(width, experts, bias=False)

    def forward(self, features: Tensor) -> list[Tensor]:
        """Cross ``(batch, width)`` floats; returns the output of every layer, of the same shape."""
        outputs, crossed = [], features
        for inward, inner, outward, bias in zip(
            self.inward, self.inner, self.outward, self.bias, strict=True
        ):
            hidden = inward(crossed).tanh().unflatten(1, (self.experts, self.rank))
            hidden = torch.einsum("bes,ers->ber", hidden, inner).tanh()
            gates = self.gate(crossed).softmax(1).unsqueeze(2).to(hidden.dtype)
            # The gates sum to 1, so that the bias comes once whatever they are.
            mixed = outward((gates * hidden).flatten(1)) + bias
            crossed = torch.addcmul(crossed, features, mixed.to(features.dtype))
            outputs.append(crossed)
        return outputs


class DCNv2(nn.Module):
    """DCN-V2: cross layers and a deep part, side by side or one on the other.

    Args:
        fields, dim: Shape of the input.
        cross_layers: Number of cross layers.
        deep_layers: Widths of the deep part.
        dropout: Dropout of the deep part.
        structure: ``parallel``: both read the fields; ``stacked``: the deep part reads the last
            cross layer.
        rank: Rank of the experts of a low-rank cross network; 0 is one of full rank.
        experts: Number of low-rank experts.

    Source: Wang et al. 2021, https://arxiv.org/abs/2008.13535
    """

    def __init__(
        self,
        fields: int,
        dim: int,
        *,
        cross_layers: int,
        deep_layers: Sequence[int],
        dropout: float,
        structure: Literal["parallel", "stacked"] = "parallel",
        rank: int = 0,
        experts: int = 4,
    ) -> None:
        super().__init__()
        width = fields * dim
        if rank:
            self.cross = LowRankCrossNetwork(width, cross_layers, rank, experts)
        else:
            self.cross = CrossNetwork(width, cross_layers)
        self.deep = MLP(width, deep_layers, dropout)
        self.stacked = structure == "stacked"
        beside = width if deep_layers and not self.stacked else 0
        self.head = nn.Linear(self.deep.width + beside, 1)
        self.layer_widths = named("cross", [width] * cross_layers) | named("deep", deep_layers)

    def forward(self, fields: Tensor) -> CrmOutput:
        """Score ``(batch, fields, dim)`` floats."""
        features = fields.flatten(1)
        crossed = self.cross(features)
        deep = self.deep(crossed[-1] if self.stacked else features)
        last = deep[-1:] if self.stacked and deep else [crossed[-1], *deep[-1:]]
        logit = self.head(torch.cat(last, 1)).squeeze(1)
        return CrmOutput(logit, named("cross", crossed) | named("deep", deep))


def build(config: NetworkConfig, encoder: FieldEncoder) -> DCNv2:
    """The configured network over the fields of ``encoder``."""
    return DCNv2(
        encoder.fields,
        config.embedding_dim,
        deep_layers=config.deep_layers,
        dropout=config.dropout,
        **config.dcnv2.model_dump(),
    )


ARCHITECTURE = Architecture(
    build,
    search={
        "crm.dcnv2.cross_layers": (1, 2, 3, 4),
        "crm.dcnv2.structure": ("parallel", "stacked"),
    },
)
