"""Scaled dot-product attention with grouped key/value heads. Vaswani et al. 2017, arXiv:1706.03762, eq. 1; grouped
queries: Ainslie et al. 2023, arXiv:2305.13245, section 2.2.

Each of the K key/value heads serves H/K neighbouring query heads. `mask` says which keys a query may read; `causal` is
the case that needs no mask in memory. `AttentionRule` is what a layer adds to the plain score: a window (Beltagy et
al. 2020, arXiv:2004.05150, 3.1), a bias by distance (ALiBi: Press et al. 2021, arXiv:2108.12409), a soft cap (Gemma 2,
arXiv:2408.00118, section 2) and sinks (Xiao et al. 2023, arXiv:2309.17453: here a learned score a head that takes
weight and gives no value). Left out: skipping the blocks that a window hides; decoding over paged caches.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vesalius.kernels.attention_blocks import blocks


@dataclass(frozen=True, kw_only=True, eq=False)
class AttentionRule:
    """How one layer scores keys.

    scale    multiplies the products of queries and keys; 0: 1/√E
    window   keys that a query reads, its own included; 0: all
    softcap  squeezes scores into ±softcap by tanh; 0: none
    slopes   (H,) times the distance is taken from a score (ALiBi)
    sinks    (H,) one more score in the softmax of a head, whose weight is dropped
    """

    scale: float = 0.0
    window: int = 0
    softcap: float = 0.0
    slopes: Tensor | None = None
    sinks: Tensor | None = None

    @property
    def fused(self) -> bool:
        """Whether masks can say it, so that torch's fused attention can compute it."""
        return not self.softcap and self.sinks is None


PLAIN = AttentionRule()


def reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = True,
    mask: Tensor | None = None,
    rule: AttentionRule = PLAIN,
    dropout: float = 0.0,
) -> Tensor:
    """q (B, H, T, E), k (B, K, S, E), v (B, K, S, E or another width), H a multiple of K; mask (B or 1, 1, T, S) bool,
    True = may read -> (B, H, T, width of v).

    The last query stands where the last key does. Softmax in float32. With `causal` query t reads the keys up to
    S - T + t. ValueError where H is no multiple of K.
    """
    if q.shape[1] % k.shape[1]:
        raise ValueError(f"query heads must be a multiple of key/value heads, got {q.shape[1]} and {k.shape[1]}")
    (H, T), K = q.shape[1:3], k.shape[1]
    grouped = q.unflatten(1, (K, H // K)).flatten(2, 3)  # (B, K, H/K · T, E): each key is read once for its group
    scores = (grouped @ k.mT).unflatten(2, (H // K, T)).flatten(1, 2).float()  # (B, H, T, S)
    scores = scores * (rule.scale or 1 / math.sqrt(q.shape[-1]))
    if rule.softcap:
        scores = rule.softcap * torch.tanh(scores / rule.softcap)
    if rule.slopes is not None:
        scores = scores - rule.slopes.float().view(-1, 1, 1) * _distances(q, k)
    if (visible := _visible(q, k, causal, mask, rule.window)) is not None:
        scores = scores.masked_fill(~visible, -math.inf)
    weights = F.dropout(_softmax(scores, rule.sinks), dropout).to(v.dtype)
    return (weights.unflatten(1, (K, H // K)).flatten(2, 3) @ v).unflatten(2, (H // K, T)).flatten(1, 2)


def _distances(q: Tensor, k: Tensor) -> Tensor:
    """How far each key stands before each query: (T, S) float32."""
    queries = torch.arange(k.shape[2] - q.shape[2], k.shape[2], dtype=torch.float32, device=q.device)
    return queries.unsqueeze(1) - torch.arange(k.shape[2], dtype=torch.float32, device=q.device)


def _visible(q: Tensor, k: Tensor, causal: bool, mask: Tensor | None, window: int) -> Tensor | None:
    """The keys that each query may read, (T, S) or (B, 1, T, S) bool; None: all of them."""
    T, S = q.shape[2], k.shape[2]
    square = torch.ones(T, S, dtype=torch.bool, device=q.device) if causal or 0 < window < S else None
    if square is not None and causal:
        square = square.tril_(S - T)
    if square is not None and 0 < window < S:
        square = square.triu_(S - T - window + 1)
    if mask is None or square is None:
        return mask if square is None else square
    return mask & square


def _softmax(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """The weights of the keys, (B, H, T, S)."""
    if sinks is None:
        return scores.softmax(-1)
    column = sinks.float().view(-1, 1, 1).expand(*scores.shape[:-1], 1)
    return torch.cat((scores, column), dim=-1).softmax(-1)[..., :-1]


def by_torch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = True,
    mask: Tensor | None = None,
    rule: AttentionRule = PLAIN,
    dropout: float = 0.0,
) -> Tensor:
    """The same as `reference` by torch's fused attention, which never writes the (T, S) weights to memory.

    That one knows neither soft caps nor sinks: layers that have them write their weights, as `reference` does.
    """
    if not rule.fused:
        return reference(q, k, v, causal=causal, mask=mask, rule=rule, dropout=dropout)
    S = k.shape[2]
    if rule.slopes is not None or 0 < rule.window < S or (causal and (mask is not None or q.shape[2] != S)):
        mask, causal = _visible(q, k, causal, mask, rule.window), False
    if rule.slopes is not None:
        bias = (-rule.slopes.float().view(-1, 1, 1) * _distances(q, k)).to(q.dtype)  # (H, T, S)
        mask = bias if mask is None else bias.masked_fill(~mask, -math.inf)
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        is_causal=causal,
        scale=rule.scale or None,
        dropout_p=dropout,
        enable_gqa=q.shape[1] != k.shape[1],
    )


def by_blocks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = True,
    mask: Tensor | None = None,
    rule: AttentionRule = PLAIN,
    dropout: float = 0.0,
) -> Tensor:
    """The same as `reference`, block by block of queries with their weights kept, see attention_blocks.

    Dropout, soft caps, biases and sinks are left to the others.
    """
    if dropout or not rule.fused or rule.slopes is not None:
        return by_torch(q, k, v, causal=causal, mask=mask, rule=rule, dropout=dropout)
    if 0 < rule.window < k.shape[2]:
        mask = _visible(q, k, causal, mask, rule.window)
    return blocks(q, k, v, causal=causal, mask=mask, scale=rule.scale or None)


IMPLS = {"reference": reference, "torch": by_torch, "blocks": by_blocks}

SHORT = 512
"""Rows up to here train faster with their weights kept, on a CPU; the memory for them grows with the square of the
length.
"""


def _best(q: Tensor) -> str:
    trains = q.requires_grad and torch.is_grad_enabled()
    return "blocks" if trains and q.device.type == "cpu" and q.shape[2] <= SHORT else "torch"


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = True,
    mask: Tensor | None = None,
    rule: AttentionRule = PLAIN,
    dropout: float = 0.0,
    impl: str | None = None,
) -> Tensor:
    """Attention by the implementation named, or else by the one that is fastest here."""
    return IMPLS[impl or _best(q)](q, k, v, causal=causal, mask=mask, rule=rule, dropout=dropout)


def document_mask(positions: Tensor) -> Tensor:
    """positions (B, T), from 0 again at every document -> (B, 1, T, T) bool: causal and within one document.

    Positions that fall back to p > 0 begin another continuation of their document's first p tokens: it reads these and
    itself, and nothing of the continuations before it. So two answers share one prompt: 0 1 2 | 3 4 5 | 3 4.
    """
    place = torch.arange(positions.shape[1], device=positions.device)  # (T,)
    follows = torch.nn.functional.pad(positions.diff(dim=-1) == 1, (1, 0))  # (B, T)
    first = torch.where(follows, 0, place).cummax(-1).values  # where the run of a token begins
    start = positions.gather(-1, first)  # the position there
    document = (positions == 0).cumsum(-1)
    own = (first.unsqueeze(-1) == first.unsqueeze(-2)) | (positions.unsqueeze(-2) < start.unsqueeze(-1))  # (B, T, T)
    same = document.unsqueeze(-1) == document.unsqueeze(-2)
    return (own & same).tril_().unsqueeze(1)
