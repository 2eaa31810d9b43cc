"""The CRM that a configuration asks for."""

import importlib
import sys
from pathlib import Path

import torch
from torch import nn

from corellarec.base.device import pick_dtype
from corellarec.base.errors import ConfigError
from corellarec.config import CrmConfig
from corellarec.crm.history import MeanPooling, TargetAttention, TransformerPooling
from corellarec.crm.model import Crm, FieldEncoder
from corellarec.crm.models.autoint import AutoInt
from corellarec.crm.models.dcnv2 import DCNv2
from corellarec.crm.models.deep import DeepNetwork
from corellarec.crm.models.deepfm import DeepFM
from corellarec.crm.models.fibinet import FiBiNET
from corellarec.crm.models.fignn import FiGNN
from corellarec.crm.models.finalmlp import FinalMLP
from corellarec.crm.models.fm import FM
from corellarec.crm.models.lr import LogisticRegression
from corellarec.crm.models.xdeepfm import XDeepFM
from corellarec.data.log import Features

WITH_FIRST_ORDER = ("fm", "deepfm", "xdeepfm", "autoint", "fibinet")


def build_crm(config: CrmConfig, features: Features, device: torch.device) -> nn.Module:
    """A CRM on a device, with fresh weights from torch's current seed.

    Raises:
        ConfigError: If settings do not go together, or a class of your own cannot be made.
    """
    if ":" in config.model:
        return own_model(config, features).to(device)
    try:
        if config.model == "lr":
            encoder = FieldEncoder(features, 1, MeanPooling(), config.id_dropout)
        else:
            encoder = FieldEncoder(
                features, config.embedding_dim, _pooling(config), config.id_dropout
            )
        first_order = None
        if config.model in WITH_FIRST_ORDER:
            first_order = FieldEncoder(features, 1, MeanPooling(), config.id_dropout)
        network = _network(config, encoder, features)
    except ValueError as error:
        raise ConfigError(f"crm ({config.model}): {error}") from error
    return Crm(encoder, network, first_order, pick_dtype(config.dtype, device)).to(device)


def _pooling(config: CrmConfig) -> nn.Module:
    kind = config.history
    if kind == "auto":
        kind = {"fm": "mean", "bst": "transformer"}.get(config.model, "attention")
    dim = config.embedding_dim
    match kind:
        case "attention":
            return TargetAttention(dim, config.attention.hidden)
        case "transformer":
            of = config.transformer
            return TransformerPooling(
                dim, config.history_length, of.heads, of.blocks, config.dropout
            )
        case _:
            return MeanPooling()


def _network(config: CrmConfig, encoder: FieldEncoder, features: Features) -> nn.Module:
    fields, dim = encoder.fields, config.embedding_dim
    deep, dropout = config.deep_layers, config.dropout
    match config.model:
        case "lr":
            return LogisticRegression(fields)
        case "fm":
            return FM(dim)
        case "deepfm":
            return DeepFM(fields, dim, deep_layers=deep, dropout=dropout)
        case "xdeepfm":
            of = config.xdeepfm.model_dump()
            return XDeepFM(fields, dim, deep_layers=deep, dropout=dropout, **of)
        case "autoint":
            of = config.autoint.model_dump()
            return AutoInt(fields, dim, deep_layers=deep, dropout=dropout, **of)
        case "fibinet":
            of = config.fibinet.model_dump()
            return FiBiNET(fields, dim, deep_layers=deep, dropout=dropout, **of)
        case "fignn":
            return FiGNN(fields, dim, **config.fignn.model_dump())
        case "dcnv2":
            of = config.dcnv2.model_dump()
            return DCNv2(fields, dim, deep_layers=deep, dropout=dropout, **of)
        case "finalmlp":
            of = config.finalmlp.model_dump()
            places = {"user_field": 0, "item_field": encoder.user_fields}
            return FinalMLP(fields, dim, deep_layers=deep, dropout=dropout, **places, **of)
        case _:  # din and bst
            return DeepNetwork(fields, dim, deep_layers=deep, dropout=dropout)


def own_model(config: CrmConfig, features: Features) -> nn.Module:
    """An instance of the user's class: ``Class(features, **options)``.

    It maps :class:`corellarec.crm.batch.CrmBatch` to :class:`corellarec.crm.model.CrmOutput` and
    has ``layer_widths``, the width of each layer by name. Modules are also looked for in the
    current directory.

    Raises:
        ConfigError: If it cannot be imported or made, or has no ``layer_widths``.
    """
    place, _, name = config.model.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        model = getattr(importlib.import_module(place), name)(features, **config.options)
    except Exception as error:  # whatever the user's own code raises
        raise ConfigError(
            f"crm.model = {config.model!r} cannot be made: {type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path.remove(str(Path.cwd()))
    if not isinstance(model, nn.Module) or not hasattr(model, "layer_widths"):
        raise ConfigError(
            f"crm.model = {config.model!r} must be a torch module with the attribute layer_widths, "
            "the width of each of its layers by name ({} if it names none)"
        )
    return model
