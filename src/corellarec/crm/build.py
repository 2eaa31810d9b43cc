"""Builds the configured CRM."""

import importlib
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from corellarec.base.device import pick_dtype
from corellarec.base.errors import ConfigError
from corellarec.config import CRM_MODELS, CrmConfig, NetworkConfig
from corellarec.crm.architecture import Architecture
from corellarec.crm.batch import CrmBatch, CrmReader, Reader
from corellarec.crm.ensemble import Ensemble, EnsembleReader
from corellarec.crm.history import MeanPooling, TargetAttention, TransformerPooling
from corellarec.crm.model import Crm, FieldEncoder
from corellarec.crm.windows import StreamReader
from corellarec.data.log import Features, Log


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
    networks = [build_network(one, features, device) for one in config.networks]
    return Ensemble(networks).to(device) if config.members else networks[0]


def build_network(config: NetworkConfig, features: Features, device: torch.device) -> nn.Module:
    """One network of a CRM, as :func:`build_crm`."""
    if not config.ratings:
        features = replace(features, ratings=())
    if ":" in config.model:
        return own_model(config, features).to(device)
    model, dtype = architecture(config.model), pick_dtype(config.dtype, device)
    try:
        if model.reads == "stream":
            if config.dtype == "auto" and device.type == "cpu":
                dtype = torch.float32  # its products are too narrow for bf16 to pay
            return model.network(config, features, dtype).to(device)
        encode = partial(
            FieldEncoder, features, id_dropout=config.id_dropout, statistics=config.statistics
        )
        if model.is_linear:
            encoder = encode(dim=1, pooling=MeanPooling())
        else:
            encoder = encode(dim=config.embedding_dim, pooling=_pooling(config, model))
        first_order = None
        if model.has_first_order:
            first_order = encode(dim=1, pooling=MeanPooling())
        network = model.network(config, encoder)
    except ValueError as error:
        raise ConfigError(f"crm ({config.model}): {error}") from error
    return Crm(encoder, network, first_order, dtype).to(device)


def build_reader(config: CrmConfig, log: Log, device: torch.device) -> Reader:
    """What makes the batches of the configured CRM."""
    readers = [network_reader(one, log, device) for one in config.networks]
    return EnsembleReader(readers) if config.members else readers[0]


def network_reader(config: NetworkConfig, log: Log, device: torch.device) -> Reader:
    """What makes the batches of one network."""
    if config.model in CRM_MODELS and architecture(config.model).reads == "stream":
        return StreamReader(log, config.stream.window, device, ratings=config.ratings)
    return CrmReader(
        log,
        config.history_length,
        device,
        statistics=config.statistics,
        ratings=config.ratings,
    )


def _pooling(config: NetworkConfig, model: Architecture) -> nn.Module:
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


def own_model(config: NetworkConfig, features: Features) -> nn.Module:
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
    model.register_forward_hook(partial(_check_output, config.model))
    return model


def _check_output(name: str, model: nn.Module, batch: tuple[CrmBatch], output: object) -> None:
    """Refuse what a class of the user's own returns if it is not what every CRM returns.

    Raises:
        ConfigError: If it is not a CrmOutput of finite logits and the layers that it names, or has
            ratings of another shape.
    """
    place, rows = f"crm.model = {name!r}", len(batch[0].target)
    logit, layers = getattr(output, "logit", None), getattr(output, "layers", None)
    if not isinstance(logit, torch.Tensor) or not isinstance(layers, dict):
        raise ConfigError(
            f"{place} returned {type(output).__name__}: forward returns CrmOutput(logit, layers)"
        )
    if logit.shape != (rows,):
        raise ConfigError(
            f"{place} returned logits of the shape {tuple(logit.shape)} for {rows} samples: "
            f"expected ({rows},)"
        )
    ratings = getattr(output, "ratings", None)
    if ratings is not None and (ratings.dim() != 2 or len(ratings) != rows):
        raise ConfigError(
            f"{place} returned ratings of the shape {tuple(ratings.shape)} for {rows} samples: "
            f"expected ({rows}, len(features.ratings) - 1)"
        )
    if missing := set(model.layer_widths) - set(layers):  # pyright: ignore[reportArgumentType]
        raise ConfigError(f"{place} returned no layer {min(missing)!r}, which layer_widths names")
    if not logit.isfinite().all():
        raise ConfigError(
            f"{place} returned a logit that is no finite number: check the class, or lower "
            "stage1.learning_rate"
        )
