"""Builds the configured CRM."""

import importlib
import sys
from pathlib import Path

import torch
from torch import nn

from corellarec.base.device import pick_dtype
from corellarec.base.errors import ConfigError
from corellarec.config import CrmConfig
from corellarec.crm.architecture import Architecture
from corellarec.crm.history import MeanPooling, TargetAttention, TransformerPooling
from corellarec.crm.model import Crm, FieldEncoder
from corellarec.data.log import Features


def architecture(name: str) -> Architecture:
    """The architecture in ``crm/models/NAME.py``.

    Args:
        name: One of :data:`corellarec.config.CRM_MODELS`.

    Example:
        >>> architecture("bst").history
        'transformer'
    """
    return importlib.import_module(f"corellarec.crm.models.{name}").ARCHITECTURE


def build_crm(config: CrmConfig, features: Features, device: torch.device) -> nn.Module:
    """A CRM on a device, with fresh weights from torch's current seed.

    Raises:
        ConfigError: If settings do not go together, or a class of your own cannot be made.
    """
    if ":" in config.model:
        return own_model(config, features).to(device)
    model = architecture(config.model)
    try:
        if model.is_linear:
            encoder = FieldEncoder(features, 1, MeanPooling(), config.id_dropout)
        else:
            pooling = _pooling(config, model)
            encoder = FieldEncoder(features, config.embedding_dim, pooling, config.id_dropout)
        first_order = None
        if model.has_first_order:
            first_order = FieldEncoder(features, 1, MeanPooling(), config.id_dropout)
        network = model.network(config, encoder)
    except ValueError as error:
        raise ConfigError(f"crm ({config.model}): {error}") from error
    return Crm(encoder, network, first_order, pick_dtype(config.dtype, device)).to(device)


def _pooling(config: CrmConfig, model: Architecture) -> nn.Module:
    dim = config.embedding_dim
    match model.history if config.history == "auto" else config.history:
        case "attention":
            return TargetAttention(dim, config.attention.hidden)
        case "transformer":
            of = config.transformer
            return TransformerPooling(
                dim, config.history_length, of.heads, of.blocks, config.dropout
            )
        case "mean":
            return MeanPooling()


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
