"""Muon: momentum, then each update is replaced by the nearest orthogonal matrix, so that all directions move alike.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/. Of a matrix G = U S Vᵀ it wants U Vᵀ, and approaches it
by an odd quintic in G (Newton-Schulz) that needs matrix products only. Weight decay is decoupled (Loshchilov & Hutter
2019, arXiv:1711.05101). Scale "match_rms_adamw" gives updates the size of AdamW's, so that AdamW's rate and decay fit
(Liu et al. 2025, arXiv:2502.16982, section 2.2); "original" is Jordan's.

A stack of matrices, as experts have, is that many matrices, and all of one shape run through the iteration together.
It costs 5·(4n²m + 2n³) operations for an n × m matrix (n ≤ m) whatever the batch, about (n/T)·(3.3 + 1.7·n/m) of a
training step on T tokens: much where batches are small. Left out: plain (not Nesterov) momentum, and matrices that are
split over devices.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""a, b, c of a·x + b·x³ + c·x⁵: the steepest start for small singular values; large ones end between 0.7 and 1.2, not
at 1.
"""

Scale = Literal["original", "match_rms_adamw"]

SCALES: dict[Scale, Callable[[int, int], float]] = {
    "original": lambda rows, columns: math.sqrt(max(1.0, rows / columns)),
    "match_rms_adamw": lambda rows, columns: 0.2 * math.sqrt(max(rows, columns)),
}

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def orthogonalize(matrices: Tensor, steps: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    """(N, n, m) -> (N, n, m) in `dtype`: each matrix with the same singular vectors and singular values near 1."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.to(dtype)
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)  # the iteration needs a spectral norm of at most 1
    for _ in range(steps):
        gram = x.mT @ x if tall else x @ x.mT  # square, of the shorter side
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, x, factor, beta=a) if tall else torch.baddbmm(x, factor, x, beta=a)
    return x


class Muon(Optimizer):
    """For the matrices inside a network. Embeddings, the head, norms and biases belong with AdamW (see build.py).

    `ns_dtype` is what the iteration is computed in: "bfloat16" where the device multiplies it fast, else "float32".
    ValueError for a parameter that is no matrix and no stack (N, n, m) of matrices.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        *,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
        scale: Scale = "match_rms_adamw",
        ns_steps: int = 5,
        ns_dtype: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, defaults | {"scale": scale, "ns_steps": ns_steps, "ns_dtype": ns_dtype})
        for parameter in (p for group in self.param_groups for p in group["params"]):
            if parameter.ndim not in (2, 3):
                raise ValueError(
                    f"Muon needs matrices or stacks of them, got shape {tuple(parameter.shape)}: give it to AdamW"
                )

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for parameters in _by_shape(group["params"]):
                directions = torch.empty(len(parameters), *parameters[0].shape, device=parameters[0].device)
                for parameter, direction in zip(parameters, directions, strict=True):
                    self._look_ahead(parameter, group["momentum"], out=direction)
                matrices = directions.flatten(0, -3)  # (N, n, m)
                updates = orthogonalize(matrices, group["ns_steps"], DTYPES[group["ns_dtype"]]).view(directions.shape)
                rate = group["lr"] * SCALES[group["scale"]](*parameters[0].shape[-2:])
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-rate)

    def _look_ahead(self, parameter: Tensor, momentum: float, out: Tensor) -> None:
        """Nesterov: the running mean of gradients, moved once more towards the newest."""
        state: dict[str, Any] = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        mean = state["momentum_buffer"].lerp_(parameter.grad, 1 - momentum)
        torch.lerp(parameter.grad, mean, momentum, out=out)  # type: ignore[arg-type]


def _by_shape(parameters: Iterable[Tensor]) -> Iterable[list[Tensor]]:
    """The parameters that have gradients, in lists of one shape."""
    lists: dict[torch.Size, list[Tensor]] = defaultdict(list)
    for parameter in parameters:
        if parameter.grad is not None:
            lists[parameter.shape].append(parameter)
    return lists.values()
