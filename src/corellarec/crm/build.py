"""The CRM that a configuration asks for."""

from collections.abc import Sequence

from corellarec.config import CrmConfig
from corellarec.crm.dcnv2 import DCNv2
from corellarec.data.log import FeatureLayout


def build_crm(
    config: CrmConfig, user_layout: Sequence[FeatureLayout], item_layout: Sequence[FeatureLayout]
) -> DCNv2:
    """A CRM with fresh weights from torch's current seed."""
    return DCNv2(
        user_layout,
        item_layout,
        embedding_dim=config.embedding_dim,
        history=config.history,
        cross_layers=config.cross_layers,
        deep_layers=config.deep_layers,
        dropout=config.dropout,
        id_dropout=config.id_dropout,
    )
