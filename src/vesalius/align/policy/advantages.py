"""How much better than expected each action was: what policy gradients multiply log-probabilities by.

Tokens are the actions. With a critic, each has an advantage of its own (GAE); without one, an answer is compared with
others to the same prompt, and all of its tokens share the difference. Subtracting what does not depend on the action
leaves the gradient's mean as it is and takes variance away (Williams 1992, section 4).

    GAE            δ_t = r_t + γ V_{t+1} - V_t,  Â_t = δ_t + γλ Â_{t+1}    Schulman et al. 2016, arXiv:1506.02438, (16)
    batch mean     A = R - mean over the batch                             REINFORCE with a baseline
    leave-one-out  A = R - mean over the G - 1 others                      Ahmadian et al. 2024, arXiv:2402.14740, (8)
    group          A = (R - mean over the G) / (std over the G + 1e-4)     Shao et al. 2024, arXiv:2402.03300, 4.1
    group mean     A = R - mean over the G                                 Liu et al. 2025, arXiv:2503.20783, 3
"""

from collections.abc import Callable

import torch
from torch import Tensor

EPSILON = 1e-4
"""Added to the standard deviation by which a group is divided: its answers may all be worth the same."""


def gae(rewards: Tensor, values: Tensor, mask: Tensor, *, discount: float, trace: float) -> tuple[Tensor, Tensor]:
    """Advantages and returns, (B, T) each, of rewards and values (B, T); 0 where mask (B, T) is false.

    discount γ, trace λ. Positions that are no action (prompts, what a tool says, padding) are passed over: the action
    before such a stretch is followed by the one behind it. After a row's last action nothing more is expected.
    """
    advantages = torch.zeros_like(values)
    next_value, running = values.new_zeros(len(values)), values.new_zeros(len(values))  # (B,)
    for t in reversed(range(values.shape[1])):
        acts = mask[:, t]
        surprise = rewards[:, t] + discount * next_value - values[:, t]
        running = torch.where(acts, surprise + discount * trace * running, running)
        next_value = torch.where(acts, values[:, t], next_value)
        advantages[:, t] = torch.where(acts, running, 0)
    return advantages, (advantages + values) * mask


def whiten(x: Tensor, mask: Tensor) -> Tensor:
    """x (B, T) with mean 0 and variance 1 over where mask (B, T) is true, 0 elsewhere."""
    chosen = x[mask]
    if not chosen.numel():
        return torch.zeros_like(x)
    return (x - chosen.mean()) * torch.rsqrt(chosen.var(correction=0) + 1e-8) * mask


def batch_mean(rewards: Tensor) -> Tensor:
    """rewards (N, G) -> (N, G)."""
    return rewards - rewards.mean()


def leave_one_out(rewards: Tensor) -> Tensor:
    """rewards (N, G), G from 2 -> (N, G). The mean of the others is independent of the answer, so it has no bias.

    >>> leave_one_out(torch.tensor([[1.0, 0.0, 0.0]]))
    tensor([[ 1.0000, -0.5000, -0.5000]])
    """
    others = rewards.shape[1] - 1
    return rewards - (rewards.sum(1, keepdim=True) - rewards) / others


def group(rewards: Tensor) -> Tensor:
    """rewards (N, G), G from 2 -> (N, G)."""
    return group_mean(rewards) / (rewards.std(1, keepdim=True) + EPSILON)


def group_mean(rewards: Tensor) -> Tensor:
    """rewards (N, G) -> (N, G). Not divided, so that prompts which are nearly always or never solved weigh no more."""
    return rewards - rewards.mean(1, keepdim=True)


COMPARISONS: dict[str, Callable[[Tensor], Tensor]] = {
    "batch_mean": batch_mean,
    "leave_one_out": leave_one_out,
    "group": group,
    "group_mean": group_mean,
}
"""Advantages without a critic, by the name that a recipe gives."""
