"""Lion: only the sign of a mixture of momentum and gradient moves the weights.

Chen et al. 2023, arXiv:2302.06675, algorithm 2. Half of Adam's state. Every weight moves by exactly lr, so the rate
should be 3 to 10 times below AdamW's and the (decoupled) weight decay as much above it (section 5 there).
"""

import torch
from torch.optim.optimizer import Optimizer, ParamsT


class Lion(Optimizer):
    """p ← (1 - lr·weight_decay)·p - lr·sign(β₁m + (1-β₁)g);  m ← β₂m + (1-β₂)g."""

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-4,
        *,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is not None:
                    momentum = self._momentum(parameter)
                    direction = momentum.mul(beta1).add_(parameter.grad, alpha=1 - beta1).sign_()
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(direction, alpha=group["lr"])
                    momentum.mul_(beta2).add_(parameter.grad, alpha=1 - beta2)

    def _momentum(self, parameter: torch.Tensor) -> torch.Tensor:
        state = self.state[parameter]
        if not state:
            state["exp_avg"] = torch.zeros_like(parameter)
        return state["exp_avg"]
