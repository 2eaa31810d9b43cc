"""DeepFM."""

from collections.abc import Sequence

from torch import Tensor, nn

from corellarec.config import NetworkConfig
from corellarec.crm.architecture import Architecture
from corellarec.crm.layers import MLP, named
from corellarec.crm.model import CrmOutput, FieldEncoder
from corellarec.crm.models.fm import pair_products


class DeepFM(nn.Module):
    """A factorization machine and a deep part on the same embeddings.

    Its linear term is the first-order part of :class:`corellarec.crm.model.Crm`.

    Args:
        fields, dim: Shape of the input.
        deep_layers: Widths of the deep part.
        dropout: Dropout of the deep part.

    Source: Guo et al. 2017, https://arxiv.org/abs/1703.04247
    """

    def __init__(
        self, fields: int, dim: int, *, deep_layers: Sequence[int], dropout: float
    ) -> None:
        super().__init__()
        self.deep = MLP(fields * dim, deep_layers, dropout)
        self.head = nn.Linear(self.deep.width, 1)
        self.layer_widths = {"pairs": dim} | named("deep", deep_layers)

    def forward(self, fields: Tensor) -> CrmOutput:
        """Score ``(batch, fields, dim)`` floats."""
        pairs, features = pair_products(fields), fields.flatten(1)
        deep = self.deep(features)
        logit = self.head((deep or [features])[-1]).squeeze(1) + pairs.sum(1)
        return CrmOutput(logit, {"pairs": pairs} | named("deep", deep))


def build(config: NetworkConfig, encoder: FieldEncoder) -> DeepFM:
    """The configured network over the fields of ``encoder``."""
    return DeepFM(
        encoder.fields,
        config.embedding_dim,
        deep_layers=config.deep_layers,
        dropout=config.dropout,
    )


ARCHITECTURE = Architecture(build, has_first_order=True)
