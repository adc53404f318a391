"""How far the student's distribution q is from the teacher's p, at each position: Agarwal et al. 2023 (GKD),
arXiv:2306.13649, section 2.

    forward KL   KL(p ‖ q) = Σ p (log p - log q)      q covers all that p does, and puts mass between its modes
    reverse KL   KL(q ‖ p)                            q keeps to where p is, and may leave modes out
    JSD(β)       β KL(p ‖ m) + (1 - β) KL(q ‖ m),  m = β p + (1 - β) q: between the two, and bounded

The last two dimensions of a tensor of log-probabilities are positions and outcomes; outcomes may be tokens, or the k
likeliest tokens and "any other" (top_k.py). Divided by β or 1 - β, the JSD goes over into the two others at the ends.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

Divergence = Callable[[Tensor, Tensor], Tensor]
"""log q (N, O), log p (N, O) -> (N,) nats, differentiable."""


def forward_kl(log_q: Tensor, log_p: Tensor) -> Tensor:
    """KL(p ‖ q)."""
    return kl(log_p, log_q)


def reverse_kl(log_q: Tensor, log_p: Tensor) -> Tensor:
    """KL(q ‖ p)."""
    return kl(log_q, log_p)


def jsd(log_q: Tensor, log_p: Tensor, beta: float) -> Tensor:
    """β KL(p ‖ m) + (1 - β) KL(q ‖ m) with m = β p + (1 - β) q, 0 < β < 1; of β = ½ it is at most log 2."""
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
    return beta * kl(log_p, log_m) + (1 - beta) * kl(log_q, log_m)


def kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    """(…, O) twice -> (…) Σ a (log a - log b).

    >>> kl(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log())
    tensor(0.1438)
    """
    return (log_a.exp() * (log_a - log_b)).sum(-1)


def divergences(beta: float) -> dict[str, Divergence]:
    """All of them by name, for a JSD of this β."""
    return {"forward_kl": forward_kl, "reverse_kl": reverse_kl, "jsd": partial(jsd, beta=beta)}
