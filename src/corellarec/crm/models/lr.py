"""Logistic regression."""

import torch
from torch import Tensor, nn

from corellarec.config import NetworkConfig
from corellarec.crm.architecture import Architecture
from corellarec.crm.model import CrmOutput, FieldEncoder


class LogisticRegression(nn.Module):
    """A sum of weights: one for each value of each feature, and a bias.

    The weights are the fields themselves, encoded with a width of 1.

    Args:
        fields: Number of fields.
    """

    def __init__(self, fields: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))
        self.layer_widths = {"fields": fields}

    def forward(self, fields: Tensor) -> CrmOutput:
        """Score ``(batch, fields, 1)`` floats; the layer is what each field adds."""
        weights = fields.squeeze(2)
        return CrmOutput(weights.sum(1) + self.bias, {"fields": weights})


def build(config: NetworkConfig, encoder: FieldEncoder) -> LogisticRegression:
    """The configured network over the fields of ``encoder``."""
    return LogisticRegression(encoder.fields)


ARCHITECTURE = Architecture(build, history="mean", is_linear=True, has_deep_part=False)
