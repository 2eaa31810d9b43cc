"""FiBiNET."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from corellarec.config import NetworkConfig
from corellarec.crm.architecture import Architecture
from corellarec.crm.layers import MLP, named
from corellarec.crm.model import CrmOutput, FieldEncoder


class SqueezeExcitation(nn.Module):
    """Weights each field from the means of all fields (SENET).

    Args:
        fields: Number of fields.
        reduction: The hidden layer has ``fields // reduction`` units, at least 1.

    Source: Huang et al. 2019, https://arxiv.org/abs/1905.09433
    """

    def __init__(self, fields: int, reduction: int) -> None:
        super().__init__()
        hidden = max(1, fields // reduction)
        self.squeeze = nn.Linear(fields, hidden, bias=False)
        self.excite = nn.Linear(hidden, fields, bias=False)

    def forward(self, fields: Tensor) -> Tensor:
        """Weigh ``(batch, fields, dim)`` floats; the shape stays."""
        weight = self.excite(self.squeeze(fields.mean(2)).relu()).relu()
        return fields * weight.unsqueeze(2).to(fields.dtype)


class BilinearInteraction(nn.Module):
    """``(v_i W_i) * v_j`` for every pair of fields ``i < j``, a matrix for each field.

    Args:
        fields, dim: Shape of the input.

    Source: Huang et al. 2019, https://arxiv.org/abs/1905.09433
    """

    def __init__(self, fields: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_normal_(torch.empty(fields, dim, dim)))
        left, right = torch.triu_indices(fields, fields, 1)
        self.left: Tensor
        self.right: Tensor
        self.register_buffer("left", left, persistent=False)
        self.register_buffer("right", right, persistent=False)

    def forward(self, fields: Tensor) -> Tensor:
        """Interact ``(batch, fields, dim)`` floats: ``(batch, pairs, dim)``."""
        turned = torch.einsum("bfd,fde->bfe", fields, self.weight)
        return turned.index_select(1, self.left) * fields.index_select(1, self.right)


class FiBiNET(nn.Module):
    """Bilinear interactions of the fields as they are and as SENET weighs them, then a deep part.

    Its linear term is the first-order part of :class:`corellarec.crm.model.Crm`.

    Args:
        fields, dim: Shape of the input.
        reduction: Reduction of the SENET layer.
        deep_layers: Widths of the deep part.
        dropout: Dropout of the deep part.

    Source: Huang et al. 2019, https://arxiv.org/abs/1905.09433
    """

    def __init__(
        self, fields: int, dim: int, *, reduction: int, deep_layers: Sequence[int], dropout: float
    ) -> None:
        super().__init__()
        self.senet = SqueezeExcitation(fields, reduction)
        self.bilinear = BilinearInteraction(fields, dim)
        self.deep = MLP(fields * (fields - 1) * dim, deep_layers, dropout)
        self.head = nn.Linear(self.deep.width, 1)
        self.layer_widths = named("deep", deep_layers)

    def forward(self, fields: Tensor) -> CrmOutput:
        """Score ``(batch, fields, dim)`` floats."""
        pairs = [self.bilinear(fields), self.bilinear(self.senet(fields))]
        features = torch.cat(pairs, 1).flatten(1)
        deep = self.deep(features)
        logit = self.head((deep or [features])[-1]).squeeze(1)
        return CrmOutput(logit, named("deep", deep))


def build(config: NetworkConfig, encoder: FieldEncoder) -> FiBiNET:
    """The configured network over the fields of ``encoder``."""
    return FiBiNET(
        encoder.fields,
        config.embedding_dim,
        deep_layers=config.deep_layers,
        dropout=config.dropout,
        **config.fibinet.model_dump(),
    )


ARCHITECTURE = Architecture(build, has_first_order=True, search={"crm.fibinet.reduction": (2, 3)})
