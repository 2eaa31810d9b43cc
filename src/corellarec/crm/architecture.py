"""Architectures: a CRM's network and what goes around it.

To add a CRM, write ``crm/models/NAME.py`` with the network and an ``ARCHITECTURE``, and add NAME to
``CRM_MODELS`` in ``config/crm.py``; settings of its own are a section there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

DEEP_LAYERS = ((80,), (200, 80), (400, 200), (256, 128, 64))  # widths that `tune` tries


@dataclass(frozen=True)
class Architecture:
    """A CRM that comes with the package: its network, and what goes around it.

    Args:
        network: Makes the network, with fresh weights, from ``(NetworkConfig, FieldEncoder)``, or
            over a stream from ``(NetworkConfig, Features, torch.dtype)``.
        reads: Whether the network reads the fields of a sample, or a user's events as a stream.
        history: What ``crm.history = "auto"`` means.
        has_first_order: Whether a linear term, an encoder of width 1, is added to the logit.
        is_linear: Whether the network reads fields of width 1, whatever ``crm.embedding_dim`` is.
        has_deep_part: Whether it reads ``crm.deep_layers`` and ``crm.dropout``.
        search: Values that ``corellarec tune`` tries of settings of its own, by their names; a
            sequence of widths is one value.

    Example:
        >>> Architecture(lambda config, encoder: FM(config.embedding_dim), history="mean")
        ... # doctest: +SKIP
    """

    network: Callable[..., nn.Module]
    reads: Literal["fields", "stream"] = "fields"
    history: Literal["mean", "attention", "transformer"] = "attention"
    has_first_order: bool = False
    is_linear: bool = False
    has_deep_part: bool = True
    search: Mapping[str, Sequence[Any]] = field(default_factory=dict)
