"""The alignment loss: paired layers of the two models, projected into one space."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm


class Alignment(nn.Module):
    """Distance between paired hidden layers of the language model and the CRM.

    ``L = mean_i sum_j || g_llm_j(h_llm[i, S_j]) - g_crm_j(h_crm[i, T_j]) ||_2 ^ exponent`` with
    ``g`` fully connected, on layers brought to zero mean and unit variance: the hidden states of
    language models have a few huge components, which would dominate the other losses. The paper
    sums over samples i; the mean keeps the weight of the loss independent of the batch size.

    Args:
        pairs: Layer names (language model S_j, CRM T_j); ``middle`` and ``last`` are any CRM's.
        llm_width: Width of the language model's hidden states.
        crm_widths: Width of each CRM layer, by name.
        width: Width of the common space.
        exponent: Power of the distance.

    Raises:
        ValueError: If a pair names a CRM layer that is not there.

    Source: Xi et al. 2024, https://arxiv.org/abs/2403.16378
    """

    def __init__(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        llm_width: int,
        crm_widths: Mapping[str, int],
        width: int,
        exponent: float,
    ) -> None:
        super().__init__()
        pairs = [(llm_name, crm_layer(crm_name, crm_widths)) for llm_name, crm_name in pairs]
        for _, name in pairs:
            if name not in crm_widths:
                raise ValueError(
                    f"the CRM has no layer {name!r}; there are: {', '.join(crm_widths)}"
                )
        self.pairs = tuple(pairs)
        self.exponent = exponent
        self.llm_projections = nn.ModuleList(nn.Linear(llm_width, width) for _ in pairs)
        self.crm_projections = nn.ModuleList(
            nn.Linear(crm_widths[name], width) for _, name in pairs
        )

    def forward(self, llm_layers: Mapping[str, Tensor], crm_layers: Mapping[str, Tensor]) -> Tensor:
        """The loss, a scalar, of layers by name, each ``(samples, width of the layer)``."""
        total = torch.zeros((), device=next(iter(crm_layers.values())).device)
        for (llm_name, crm_name), project_llm, project_crm in zip(
            self.pairs, self.llm_projections, self.crm_projections, strict=True
        ):
            llm, crm = llm_layers[llm_name], crm_layers[crm_name]
            gap = project_llm(_normalised(llm)) - project_crm(_normalised(crm))
            # The squared norm has a gradient at zero, where the norm has none.
            total = total + (gap.square().sum(1) + 1e-12).pow(self.exponent / 2).mean()
        return total


def crm_layer(name: str, widths: Mapping[str, int]) -> str:
    """The layer that ``middle`` or ``last`` means: of the deep ones, or of all if none is deep."""
    layers = [layer for layer in widths if layer.startswith("deep")] or list(widths)
    if not layers or name not in ("middle", "last"):
        return name
    return layers[-1] if name == "last" else layers[(len(layers) - 1) // 2]


def _normalised(layer: Tensor) -> Tensor:
    return layer_norm(layer.float(), layer.shape[-1:])
