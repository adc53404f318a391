"""Attention of a ragged batch over keys and values in pages (kernels/pages). Kwon et al. 2023, arXiv:2309.06180,
section 4.

    reference   one sequence after another, gathered from its blocks: the truth
    torch       all sequences with one new token at once, padded to the longest; the others one by one
    native      kernels/native/paged_attention.cpp: float32 queries on the CPU; no gradients
"""

import ctypes
import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from vesalius.kernels import attention as plain
from vesalius.kernels.attention import PLAIN, AttentionRule
from vesalius.kernels.native.interface import RuleStruct, functions, threads
from vesalius.kernels.pages import Pages, Segments, gather, quantise_heads, write

__all__ = ["IMPLS", "Pages", "Segments", "gather", "paged_attention", "quantise_heads", "reference", "write"]


def reference(q: Tensor, pages: Pages, segments: Segments, rule: AttentionRule = PLAIN) -> Tensor:
    """q (N, H, E), whose keys and values are written -> (N, H, width of the values)."""
    parts = [_attend_one(q, pages, segments, rule, i) for i, count in enumerate(segments.counts) if count]
    return torch.cat(parts) if parts else q.new_zeros(0, q.shape[1], pages.width)


def _attend_one(q: Tensor, pages: Pages, segments: Segments, rule: AttentionRule, i: int) -> Tensor:
    """All new rows of sequence i, (T, H, width)."""
    count, past, first = segments.counts[i], segments.pasts[i], segments.firsts[i]
    rows = q[first : first + count].transpose(0, 1).unsqueeze(0)  # (1, H, T, E)
    # What a window has left behind is not there any more: begin with the block of the first key that is read.
    begin = max(0, past + 1 - rule.window) // pages.positions if rule.window else 0
    used = segments.tables[i][begin : -(-(past + count) // pages.positions)]
    keys, values = gather(pages, torch.tensor(used, dtype=torch.int64, device=q.device), q.dtype)
    end = past + count - begin * pages.positions
    keys, values = keys[None, :, :end], values[None, :, :end]
    if segments.ancestors is None:
        return plain.attention(rows, keys, values, rule=rule)[0].transpose(0, 1)
    mask = _tree_mask(segments.ancestors[first : first + count], end).to(q.device)
    return plain.attention(rows, keys, values, causal=False, mask=mask, rule=rule)[0].transpose(0, 1)


def _tree_mask(ancestors: list[int], keys: int) -> Tensor:
    """(1, 1, T, S) bool: all keys before the new ones, and of those the ancestors."""
    T = len(ancestors)
    new = torch.tensor([[bits >> j & 1 for j in range(T)] for bits in ancestors], dtype=torch.bool)
    return torch.cat((torch.ones(T, keys - T, dtype=torch.bool), new), 1)[None, None]


def by_torch(q: Tensor, pages: Pages, segments: Segments, rule: AttentionRule = PLAIN) -> Tensor:
    """The same as `reference`, with all sequences that have one new token in one operation."""
    singles = [i for i, count in enumerate(segments.counts) if count == 1]
    if len(singles) < 2 or rule.slopes is not None:  # slopes follow distances, which padding shifts
        return reference(q, pages, segments, rule)
    out = q.new_empty(q.shape[0], q.shape[1], pages.width)
    rows = torch.tensor([segments.firsts[i] for i in singles], device=q.device)
    out[rows] = _attend_singles(q[rows], pages, segments, rule, singles)
    for i, count in enumerate(segments.counts):
        if count > 1:
            first = segments.firsts[i]
            out[first : first + count] = _attend_one(q, pages, segments, rule, i)
    return out


def _attend_singles(q: Tensor, pages: Pages, segments: Segments, rule: AttentionRule, singles: list[int]) -> Tensor:
    """q (S, H, E): one row for each of those sequences -> (S, H, width)."""
    P = pages.positions
    begins = [max(0, segments.pasts[i] + 1 - rule.window) // P if rule.window else 0 for i in singles]
    used = [segments.tables[i][b : segments.pasts[i] // P + 1] for i, b in zip(singles, begins, strict=True)]
    most = max(map(len, used))
    blocks = torch.tensor([table + [table[-1]] * (most - len(table)) for table in used], device=q.device)
    keys, values = gather(pages, blocks, q.dtype)  # (S, K, M · P, E)
    ends = torch.tensor([segments.pasts[i] + 1 - b * P for i, b in zip(singles, begins, strict=True)], device=q.device)
    places = torch.arange(most * P, device=q.device)
    visible = places < ends.unsqueeze(1)  # (S, M · P)
    if rule.window:
        visible &= places >= (ends - rule.window).unsqueeze(1)
    # What stands where nothing was written may be anything, NaN too, and neither -∞ nor zero weight makes that vanish.
    hidden = ~visible[:, None, :, None]
    keys, values = keys.masked_fill(hidden, 0.0), values.masked_fill(hidden, 0.0)
    windowless = replace(rule, window=0)
    mask = visible[:, None, None]
    return plain.attention(q.unsqueeze(2), keys, values, causal=False, mask=mask, rule=windowless).squeeze(2)


def native(q: Tensor, pages: Pages, segments: Segments, rule: AttentionRule = PLAIN) -> Tensor:
    """The same as `reference`. ValueError for what the native side does not read."""
    if not q.is_cpu or q.dtype != torch.float32 or not pages.is_native:
        raise ValueError(
            f"native attention takes float32 queries and contiguous pages on the CPU, got {q.dtype} on {q.device} over "
            f"{pages.keys.dtype} on {pages.keys.device}: take the implementation 'torch'"
        )
    q, out = q.contiguous(), q.new_empty(q.shape[0], q.shape[1], pages.width)
    slopes, sinks = (None if x is None else x.float().contiguous() for x in (rule.slopes, rule.sinks))
    rule_struct = RuleStruct(
        slopes=None if slopes is None else slopes.data_ptr(),
        sinks=None if sinks is None else sinks.data_ptr(),
        scale=rule.scale or 1 / math.sqrt(q.shape[-1]),
        softcap=rule.softcap,
        window=rule.window,
    )
    structs = [ctypes.byref(struct) for struct in (pages.struct, segments.struct(pages.positions), rule_struct)]
    functions().vesalius_paged_attention(*structs, q.data_ptr(), q.shape[1], out.data_ptr(), threads())
    return out


IMPLS: dict[str, Callable[[Tensor, Pages, Segments, AttentionRule], Tensor]] = {
    "reference": reference,
    "torch": by_torch,
    "native": native,
}


def _best(q: Tensor, pages: Pages) -> str:
    trains = q.requires_grad and torch.is_grad_enabled()
    return "native" if q.dtype == torch.float32 and pages.is_native and not trains else "torch"


def paged_attention(
    q: Tensor, pages: Pages, segments: Segments, rule: AttentionRule = PLAIN, impl: str | None = None
) -> Tensor:
    """q (N, H, E), whose keys and values `write` has put into the pages -> (N, H, width of the values), by the
    implementation named, or else the fastest there is. Each row reads the keys of its own sequence up to itself.
    """
    return IMPLS[impl or _best(q, pages)](q, pages, segments, rule)
