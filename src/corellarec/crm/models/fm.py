"""Factorization machine."""

import torch
from torch import Tensor, nn

from corellarec.config import NetworkConfig
from corellarec.crm.architecture import Architecture
from corellarec.crm.model import CrmOutput, FieldEncoder


def pair_products(fields: Tensor) -> Tensor:
    """``sum over i < j of v_i * v_j`` of ``(batch, fields, dim)``: ``(batch, dim)``."""
    return 0.5 * (fields.sum(1).square() - fields.square().sum(1))


class FM(nn.Module):
    """A factorization machine: inner products of all pairs of fields, and a bias.

    Its linear term is the first-order part of :class:`corellarec.crm.model.Crm`.

    Args:
        dim: Width of a field.

    Source: Rendle 2010, https://doi.org/10.1109/ICDM.2010.127
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))
        self.layer_widths = {"pairs": dim}

    def forward(self, fields: Tensor) -> CrmOutput:
        """Score ``(batch, fields, dim)`` floats."""
        pairs = pair_products(fields)
        return CrmOutput(pairs.sum(1) + self.bias, {"pairs": pairs})


def build(config: NetworkConfig, encoder: FieldEncoder) -> FM:
    """The configured network over the fields of ``encoder``."""
    return FM(config.embedding_dim)


ARCHITECTURE = Architecture(build, history="mean", has_first_order=True, has_deep_part=False)
