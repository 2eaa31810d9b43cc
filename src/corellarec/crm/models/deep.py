"""A deep network alone, which DIN and BST put behind their pooling of the history."""

from collections.abc import Sequence

from torch import Tensor, nn

from corellarec.config import NetworkConfig
from corellarec.crm.layers import MLP, named
from corellarec.crm.model import CrmOutput, FieldEncoder


class DeepNetwork(nn.Module):
    """A multi-layer perceptron over the fields.

    Behind :class:`corellarec.crm.history.TargetAttention` it is DIN, behind
    :class:`corellarec.crm.history.TransformerPooling` BST.

    Args:
        fields, dim: Shape of the input.
        deep_layers: Widths of the layers.
        dropout: Dropout after each.

    Source: Zhou et al. 2018 (DIN), https://arxiv.org/abs/1706.06978; Chen et al. 2019 (BST),
        https://arxiv.org/abs/1905.06874
    """

    def __init__(
        self, fields: int, dim: int, *, deep_layers: Sequence[int], dropout: float
    ) -> None:
        super().__init__()
        self.deep = MLP(fields * dim, deep_layers, dropout)
        self.head = nn.Linear(self.deep.width, 1)
        self.layer_widths = named("deep", deep_layers)

    def forward(self, fields: Tensor) -> CrmOutput:
        """Score ``(batch, fields, dim)`` floats."""
        features = fields.flatten(1)
        deep = self.deep(features)
        logit = self.head((deep or [features])[-1]).squeeze(1)
        return CrmOutput(logit, named("deep", deep))


def build(config: NetworkConfig, encoder: FieldEncoder) -> DeepNetwork:
    """The configured network over the fields of ``encoder``."""
    return DeepNetwork(
        encoder.fields,
        config.embedding_dim,
        deep_layers=config.deep_layers,
        dropout=config.dropout,
    )
