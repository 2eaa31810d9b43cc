"""AdamW that updates only the touched rows of embedding tables."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class LazyAdamW(torch.optim.AdamW):
    """AdamW; parameters with a sparse gradient have only their touched rows updated.

    A row's moments, bias correction and weight decay count the steps that touched it: a row that
    no batch has touched keeps its value, and the cost of a step does not depend on the size of the
    table. Other parameters are updated as by :class:`torch.optim.AdamW`.

    Source: Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore
        """Update all parameters that have a gradient; sparse gradients are dropped afterwards."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.grad.is_sparse:
                    self._update_rows(parameter, group)
                    parameter.grad = None
        return super().step(closure)

    def _update_rows(self, table: nn.Parameter, group: dict[str, Any]) -> None:
        assert table.grad is not None
        gradient = table.grad.coalesce()
        rows, gradient = gradient.indices()[0], gradient.values()
        state = self.state[table]
        if not state:
            # AdamW has one step a parameter under this name; here every row has its own.
            state["step"] = torch.zeros(len(table), 1, device=table.device)
            state["exp_avg"] = torch.zeros_like(table)
            state["exp_avg_sq"] = torch.zeros_like(table)
        beta1, beta2 = group["betas"]
        steps = state["step"].index_select(0, rows).add_(1)
        first = state["exp_avg"].index_select(0, rows).lerp_(gradient, 1 - beta1)
        second = state["exp_avg_sq"].index_select(0, rows)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        state["step"].index_copy_(0, rows, steps)
        state["exp_avg"].index_copy_(0, rows, first)
        state["exp_avg_sq"].index_copy_(0, rows, second)
        scale = second.div_(1 - beta2**steps).sqrt_().add_(group["eps"])
        update = first.div_(1 - beta1**steps).div_(scale)
        values = table.index_select(0, rows).mul_(1 - group["lr"] * group["weight_decay"])
        table.index_copy_(0, rows, values.sub_(update, alpha=group["lr"]))


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale all gradients, sparse ones too, to a common norm of at most ``max_norm``.

    Returns the norm before, a scalar on the parameters' device.
    """
    gradients = []
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()  # once, for the optimizer too
            gradients.append(parameter.grad.values())
        elif parameter.grad is not None:
            gradients.append(parameter.grad)
    norm = nn.utils.get_total_norm(gradients)
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(gradients, scale)  # pyright: ignore[reportPrivateImportUsage]
    return norm
