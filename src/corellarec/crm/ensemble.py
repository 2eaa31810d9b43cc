"""A CRM of several networks: one logit, the weighted sum of theirs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from corellarec.crm.batch import Reader
from corellarec.crm.model import CrmOutput
from corellarec.data.log import Log, Samples


@dataclass(frozen=True)
class Blended:
    """How the networks of a CRM were blended; all by network, the first first.

    Args:
        names: Of the networks.
        weights: Of each network's logit in their sum; one of weight 0 is not computed.
        bias: Added to the sum.
        alone: Validation log loss (nats) of each network alone, calibrated.
        without: Validation log loss of the blend of all others.
        together: Validation log loss of the blend.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...]
    bias: float
    alone: tuple[float, ...]
    without: tuple[float, ...]
    together: float


class Ensemble(nn.Module):
    """``logit = bias + sum over members of weight * logit``; it has no hidden layers.

    A member whose weight is 0 is not computed.

    Args:
        members: CRMs.
        weights: Of each one's logit; by default all alike.
        bias: Added to the sum.
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self, members: Sequence[nn.Module], weights: Sequence[float] = (), bias: float = 0.0
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        weight = torch.tensor(weights or [1 / len(members)] * len(members))
        self.register_buffer("weight", weight)
        self.register_buffer("bias", torch.tensor(bias))

    def forward(self, batches: Sequence[Callable[[], Any]]) -> CrmOutput:
        """Score samples; each member's batch of them is made by a call."""
        logit = self.bias
        for member, batch, weight in zip(self.members, batches, self.weight.tolist(), strict=True):
            if weight:
                logit = logit + weight * member(batch()).logit
        return CrmOutput(logit, {})


class EnsembleReader:
    """Makes each member's batch of the same samples, once it is asked for.

    Args:
        readers: Of the members, in their order; the first says which samples go together.
    """

    def __init__(self, readers: Sequence[Reader]) -> None:
        self.readers, self.device = readers, readers[0].device

    def over(self, log: Log) -> Self:
        """As :meth:`corellarec.crm.batch.Reader.over`."""
        return type(self)([reader.over(log) for reader in self.readers])

    def parts(
        self, samples: Samples, size: int, generator: torch.Generator | None = None
    ) -> list[Tensor]:
        """As :meth:`corellarec.crm.batch.Reader.parts`."""
        return self.readers[0].parts(samples, size, generator)

    def __call__(self, samples: Samples) -> list[Callable[[], Any]]:
        """What makes each member's batch of ``samples``."""
        return [partial(reader, samples) for reader in self.readers]
