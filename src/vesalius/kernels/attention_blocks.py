"""Causal attention for training on short rows: the queries in blocks, the weights kept for the backward pass.

A block of queries reads only the keys up to its end, so with blocks of an eighth of the row 7/16 of the square is never
computed, and masks are needed on the diagonal alone. What flash attention computes again in the backward pass is kept
here, which costs memory that grows with the square of the length, and pays where a row is short. Left out: dropout.

With P = softmax(scale · QKᵀ):  dV = Pᵀ dO,  dP = dO Vᵀ,  dS = P ⊙ (dP - rowsum(dP ⊙ P)),  dQ = scale · dS K,
dK = scale · dSᵀ Q.  (Dao et al. 2022, arXiv:2205.14135, appendix B.2.)
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 64


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, causal: bool) -> Tensor:
        """q (B, H, T, E), k and v (B, H, S, E), mask (B or 1, 1, T, S) or None."""
        shape = q.shape
        q, k, v = ((x * scale if x is q else x).reshape(-1, *x.shape[2:]) for x in (q, k, v))  # (B·H, T or S, E)
        out, weights = v.new_empty(*q.shape[:2], v.shape[2]), []
        for rows, keys in _blocks(q.shape[1], k.shape[1], causal):
            scores = q[:, rows] @ k[:, :keys].mT  # (B·H, rows, keys)
            if causal:
                _mask_diagonal(scores)
            if mask is not None:
                scores.view(*shape[:2], *scores.shape[1:]).masked_fill_(~mask[..., rows, :keys], -math.inf)
            weights.append(scores.softmax(-1))
            out[:, rows] = weights[-1] @ v[:, :keys]
        ctx.save_for_backward(q, k, v, *weights)
        ctx.scale, ctx.causal, ctx.shape = scale, causal, shape
        return out.view(*shape[:3], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *weights = ctx.saved_tensors
        grad = grad.reshape(*q.shape[:2], -1)
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for p, (rows, keys) in zip(weights, _blocks(q.shape[1], k.shape[1], ctx.causal), strict=True):
            part = grad[:, rows]
            grad_v[:, :keys].baddbmm_(p.mT, part)
            grad_scores = torch.ops.aten._softmax_backward_data(part @ v[:, :keys].mT, p, -1, p.dtype)
            grad_q[:, rows] = (grad_scores @ k[:, :keys]).mul_(ctx.scale)
            grad_k[:, :keys].baddbmm_(grad_scores.mT, q[:, rows])  # q carries the scale
        rows = ctx.shape[:2]  # (B, H)
        return *(g.unflatten(0, rows) for g in (grad_q, grad_k, grad_v)), None, None, None


def _blocks(queries: int, keys: int, causal: bool) -> Iterator[tuple[slice, int]]:
    """(a block of queries, how many keys it reads): one block where every query may read every key."""
    if not causal:
        yield slice(0, queries), keys
        return
    for start in range(0, queries, BLOCK):
        end = min(start + BLOCK, queries)
        yield slice(start, end), keys - queries + end


def weights_kept(length: int) -> int:
    """How many weights a head keeps for each query of a row of this length, on average and rounded up.

    >>> weights_kept(16), weights_kept(128)
    (16, 96)
    """
    return -(-sum((rows.stop - rows.start) * keys for rows, keys in _blocks(length, length, causal=True)) // length)


def _mask_diagonal(scores: Tensor) -> None:
    """scores (N, rows, keys), whose last query reads the last key: -inf for every key behind its query."""
    rows = scores.shape[1]
    behind = torch.ones(rows, rows, dtype=torch.bool, device=scores.device).triu_(1)
    scores[:, :, -rows:].masked_fill_(behind, -math.inf)


def blocks(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = True, mask: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """The same as `attention.reference` without dropout: q (B, H, T, E), k (B, K, S, E), v of any width."""
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    return _Blocks.apply(q, k, v, mask, scale or 1 / math.sqrt(q.shape[-1]), causal)
