"""Stochastic gradient descent with momentum, plain or Nesterov's. Sutskever et al. 2013, "On the importance of
initialization and momentum".

As in torch: the velocity sums gradients without (1 - momentum), so the rate acts 1 / (1 - momentum) times as strongly
in the long run; weight decay is added to the gradient (L2), not decoupled. Left out: dampening.
"""

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT


class SGD(Optimizer):
    """v ← momentum·v + g;  p ← p - lr·v, or with Nesterov  p ← p - lr·(g + momentum·v), g being the gradient plus
    weight_decay·p.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-2,
        *,
        momentum: float = 0.9,
        nesterov: bool = True,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    gradient = parameter.grad.add(parameter, alpha=group["weight_decay"])
                    velocity = self._velocity(parameter).mul_(group["momentum"]).add_(gradient)
                    direction = gradient.add(velocity, alpha=group["momentum"]) if group["nesterov"] else velocity
                    parameter.sub_(direction, alpha=group["lr"])

    def _velocity(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]
