"""Scaled dot-product attention with grouped key/value heads. Vaswani et al. 2017, arXiv:1706.03762, eq. 1; grouped
queries: Ainslie et al. 2023, arXiv:2305.13245, section 2.2.

Each of the K key/value heads serves H/K neighbouring query heads. `mask` says which keys a query may read; `causal` is
the case that needs no mask in memory. Left out: sliding windows and sinks, which are masks and one more column;
decoding over paged caches.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = True,
    mask: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """q (B, H, T, E), k and v (B, K, S, E), H a multiple of K; mask (B or 1, 1, T, S) bool, True = may read -> (B, H,
    T, E).

    Softmax in float32. With `causal` query t reads the keys up to S - T + t. ValueError where H is no multiple of K.
    """
    if q.shape[1] % k.shape[1]:
        raise ValueError(f"query heads must be a multiple of key/value heads, got {q.shape[1]} and {k.shape[1]}")
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)  # (B, H, S, E)
    scores = (q @ k.transpose(-1, -2)).float() * (scale or 1 / math.sqrt(q.shape[-1]))  # (B, H, T, S)
    if causal:
        lower = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril(k.shape[2] - q.shape[2])
        mask = lower if mask is None else mask & lower
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    weights = F.dropout(scores.softmax(-1), dropout)
    return weights.to(v.dtype) @ v


def by_torch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = True,
    mask: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """The same as `reference` by torch's fused attention, which never writes the (T, S) weights to memory."""
    grouped = q.shape[1] != k.shape[1]
    if causal and (mask is not None or q.shape[2] != k.shape[2]):
        lower = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(k.shape[2] - q.shape[2])
        mask, causal = lower if mask is None else mask & lower, False
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, scale=scale, dropout_p=dropout, enable_gqa=grouped
    )


class _Stored(torch.autograd.Function):
    """The weights (B, H, T, S) are kept for the backward pass: three products and one softmax derivative.

    With P = softmax(scale · QKᵀ):  dV = Pᵀ dO,  dP = dO Vᵀ,  dS = P ⊙ (dP - rowsum(dP ⊙ P)),  dQ = scale · dS K,  dK =
    scale · dSᵀ Q.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        scores = (q * scale) @ k.mT  # (B, H, T, S)
        if mask is not None:
            scores.masked_fill_(~mask, -math.inf)
        weights = scores.softmax(-1)
        ctx.save_for_backward(q, k, v, weights)
        ctx.scale = scale
        return weights @ v

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights = ctx.saved_tensors
        grad_scores = torch.ops.aten._softmax_backward_data(grad @ v.mT, weights, -1, weights.dtype)
        grad_q, grad_k = (grad_scores @ k).mul_(ctx.scale), (grad_scores.mT @ q).mul_(ctx.scale)
        return grad_q, grad_k, weights.mT @ grad, None, None


def stored(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = True,
    mask: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """The same as `reference`, with the weights kept in memory: for short rows in bfloat16 on a CPU that multiplies it
    fast.

    torch's fused attention recomputes them in blocks that are too small for such units. Dropout is left to the others.
    """
    if dropout:
        return by_torch(q, k, v, causal=causal, mask=mask, scale=scale, dropout=dropout)
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    if causal:
        lower = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(k.shape[2] - q.shape[2])
        mask = lower if mask is None else mask & lower
    return _Stored.apply(q, k, v, mask, scale or 1 / math.sqrt(q.shape[-1]))


IMPLS = {"reference": reference, "torch": by_torch, "stored": stored}

SHORT = 512
"""Rows up to here train faster with stored weights in bfloat16 on CPU; their memory grows with the square of the
length.
"""


def _best(q: Tensor) -> str:
    short = q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.shape[2] <= SHORT
    return "stored" if short and q.requires_grad and not torch.compiler.is_compiling() else "torch"


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = True,
    mask: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    impl: str | None = None,
) -> Tensor:
    """Attention by the implementation named, or else by the one that is fastest here."""
    return IMPLS[impl or _best(q)](q, k, v, causal=causal, mask=mask, scale=scale, dropout=dropout)


def document_mask(positions: Tensor) -> Tensor:
    """positions (B, T), from 0 again at every document -> (B, 1, T, T) bool: causal and within one document."""
    document = (positions == 0).cumsum(-1)  # (B, T)
    same = document.unsqueeze(-1) == document.unsqueeze(-2)  # (B, T, T)
    return same.tril_().unsqueeze(1)
