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
    """The G = H/K query heads that share keys stand behind each other at every position, so that they are rows of one
    product, and keys and values are neither copied for each nor their gradients summed."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, causal: bool) -> Tensor:
        """q (B, H, T, E), k and v (B, K, S, E), mask (B or 1, 1, T, S), (T, S) or None."""
        grouped = _grouped(q, k.shape[1])  # (B, K, T, G, E)
        q = torch.mul(grouped, scale, out=q.new_empty(grouped.shape)).flatten(2, 3).flatten(0, 1)  # (B·K, T·G, E)
        (B, K, T, G), k, v = grouped.shape[:4], k.flatten(0, 1), v.flatten(0, 1)  # (B·K, S, E)
        out, weights = _like_projections(v, (B, K, T, G, v.shape[2])), []
        for rows, keys in _blocks(T, k.shape[1], causal):
            scores = q[:, rows.start * G : rows.stop * G] @ k[:, :keys].mT  # (B·K, rows·G, keys)
            by_position = scores.view(B, K, -1, G, keys)
            if causal:
                _mask_diagonal(by_position)
            if mask is not None:
                by_position.masked_fill_(~mask[..., rows, :keys].unsqueeze(-2), -math.inf)
            weights.append(scores.softmax(-1))
            out[:, :, rows] = (weights[-1] @ v[:, :keys]).view(B, K, -1, G, v.shape[2])
        ctx.save_for_backward(q, k, v, *weights)
        ctx.scale, ctx.causal, ctx.shape = scale, causal, (B, K, T, G)
        return _heads(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *weights = ctx.saved_tensors
        B, K, T, G = ctx.shape
        grad = _grouped(grad, K).flatten(2, 3).flatten(0, 1)  # (B·K, T·G, E)
        grad_k, grad_v = torch.zeros_like(k), torch.zeros_like(v)
        grad_q = _like_projections(q, (*ctx.shape, q.shape[2]))
        for p, (rows, keys) in zip(weights, _blocks(T, k.shape[1], ctx.causal), strict=True):
            place = slice(rows.start * G, rows.stop * G)
            part = grad[:, place]
            grad_v[:, :keys].baddbmm_(p.mT, part)
            grad_scores = torch.ops.aten._softmax_backward_data(part @ v[:, :keys].mT, p, -1, p.dtype)
            torch.mul((grad_scores @ k[:, :keys]).view(B, K, -1, G, q.shape[2]), ctx.scale, out=grad_q[:, :, rows])
            grad_k[:, :keys].baddbmm_(grad_scores.mT, q[:, place])  # q carries the scale
        return _heads(grad_q), *(g.unflatten(0, (B, K)) for g in (grad_k, grad_v)), None, None, None


def _grouped(x: Tensor, kv_heads: int) -> Tensor:
    """(B, H, T, E) -> (B, K, T, G, E), a view."""
    return x.unflatten(1, (kv_heads, -1)).transpose(2, 3)


def _like_projections(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Room for (B, K, T, G, E) that lies in memory as (B, T, K, G, E), where all heads of a token are neighbours."""
    B, K, T, G, E = shape
    return like.new_empty(B, T, K, G, E).transpose(1, 2)


def _heads(x: Tensor) -> Tensor:
    """(B, K, T, G, E) with the heads of a token beside each other -> (B, H, T, E), a view."""
    return x.transpose(1, 2).flatten(2, 3).transpose(1, 2)


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
    """scores (B, K, rows, G, keys), whose last query reads the last key: -inf for every key behind its query."""
    rows = scores.shape[2]
    behind = torch.ones(rows, rows, dtype=torch.bool, device=scores.device).triu_(1)
    scores[..., -rows:].masked_fill_(behind.unsqueeze(1), -math.inf)


def blocks(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = True, mask: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """The same as `attention.reference` without dropout: q (B, H, T, E), k (B, K, S, E), v of any width."""
    return _Blocks.apply(q, k, v, mask, scale or 1 / math.sqrt(q.shape[-1]), causal)
