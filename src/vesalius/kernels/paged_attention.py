"""Attention of a ragged batch over keys and values in pages. Kwon et al. 2023, arXiv:2309.06180, section 4.

One step of an engine reads a few tokens of each of many sequences. All of them stand one behind the other as rows;
`Segments` says which rows belong to which sequence, how many positions that one has filled before, and in which blocks
of the pool they lie. A block holds P positions of all key/value heads, so a dense cache is the case of one block a
sequence. Pages of int8 carry one scale for each head and position (as KIVI, arXiv:2402.02750, does per token).

    reference   one sequence after another, gathered from its blocks: the truth
    torch       all sequences with one new token at once, padded to the longest; the others one by one
    native      kernels/native/paged_attention.cpp
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from vesalius.kernels import attention as plain
from vesalius.kernels.attention import PLAIN, AttentionRule


@dataclass(frozen=True, eq=False)
class Pages:
    """One layer's storage: keys (N, K, P, E) and values (N, K, P, E or another width), N blocks of P positions.

    float32, bfloat16, or int8 with scales (N, K, P) float32: value = scale · code. Where `values` is None the values
    are the first `value_width` numbers of the keys (latent attention).
    """

    keys: Tensor
    values: Tensor | None
    key_scales: Tensor | None = None
    value_scales: Tensor | None = None
    value_width: int = 0

    @property
    def positions(self) -> int:
        """P: how many positions a block holds."""
        return self.keys.shape[2]


@dataclass(frozen=True, eq=False)
class Segments:
    """Which rows of a batch are new tokens of which sequence, and where its earlier ones lie.

    counts     new tokens of each sequence; their rows stand one behind the other
    pasts      positions that each sequence has filled before
    tables     the blocks of each sequence in order, with room for the new tokens; a block that a window has left
               behind may be any number
    ancestors  for each row the set of new tokens of its own sequence that it reads, bit j for the j-th; None: all up
               to itself. At most 63 new tokens a sequence: trees of speculative decoding
    """

    counts: list[int]
    pasts: list[int]
    tables: list[list[int]]
    device: torch.device
    ancestors: list[int] | None = None

    @property
    def rows(self) -> int:
        """N: new tokens of all sequences."""
        return sum(self.counts)

    @cached_property
    def firsts(self) -> list[int]:
        """The first row of each sequence."""
        firsts, row = [], 0
        for count in self.counts:
            firsts.append(row)
            row += count
        return firsts

    def slots(self, positions: int) -> tuple[Tensor, Tensor]:
        """Block and place in it of every row, (N,) int64 each, where a block holds so many positions."""
        if positions not in self._slots:
            places = [
                (table[at // positions], at % positions)
                for count, past, table in zip(self.counts, self.pasts, self.tables, strict=True)
                for at in range(past, past + count)
            ]
            blocks, offsets = torch.tensor(places, dtype=torch.int64, device=self.device).view(-1, 2).unbind(1)
            self._slots[positions] = (blocks, offsets)
        return self._slots[positions]

    @cached_property
    def _slots(self) -> dict[int, tuple[Tensor, Tensor]]:
        return {}


def write(pages: Pages, segments: Segments, k: Tensor, v: Tensor) -> None:
    """Puts the new keys (N, K, E) and values (N, K, width) where they belong, in place."""
    blocks, offsets = segments.slots(pages.positions)
    _put(pages.keys, pages.key_scales, blocks, offsets, k)
    if pages.values is not None:
        _put(pages.values, pages.value_scales, blocks, offsets, v)


def _put(storage: Tensor, scales: Tensor | None, blocks: Tensor, offsets: Tensor, x: Tensor) -> None:
    if scales is None:
        storage[blocks, :, offsets] = x.to(storage.dtype)
        return
    codes, scale = quantise_heads(x)
    storage[blocks, :, offsets] = codes
    scales[blocks, :, offsets] = scale


def quantise_heads(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (…, E) -> codes (…, E) int8 and scale (…) float32 with x ≈ scale · code; error at most half a step."""
    scale = x.float().abs().amax(-1) / 127
    codes = (x.float() / scale.clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(-1)).round()
    return codes.to(torch.int8), scale


def gather(pages: Pages, blocks: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Keys and values of blocks (…, M) as (…, K, M · P, E)."""
    keys = _gathered(pages.keys, pages.key_scales, blocks, dtype)
    if pages.values is None:
        return keys, keys[..., : pages.value_width]
    return keys, _gathered(pages.values, pages.value_scales, blocks, dtype)


def _gathered(storage: Tensor, scales: Tensor | None, blocks: Tensor, dtype: torch.dtype) -> Tensor:
    found = storage[blocks].to(dtype)  # (…, M, K, P, E)
    if scales is not None:
        found = found * scales[blocks].to(dtype).unsqueeze(-1)
    return found.transpose(-4, -3).flatten(-3, -2)


def reference(q: Tensor, pages: Pages, segments: Segments, rule: AttentionRule = PLAIN) -> Tensor:
    """q (N, H, E), whose keys and values are written -> (N, H, width of the values)."""
    parts = [_attend_one(q, pages, segments, rule, i) for i, count in enumerate(segments.counts) if count]
    width = pages.value_width if pages.values is None else pages.values.shape[-1]
    return torch.cat(parts) if parts else q.new_zeros(0, q.shape[1], width)


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
    width = pages.value_width if pages.values is None else pages.values.shape[-1]
    out = q.new_empty(q.shape[0], q.shape[1], width)
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
    # What stands where nothing was written may be anything, NaN too: zero weight times NaN is NaN, and so is NaN - inf.
    keys, values = (x.masked_fill(~visible[:, None, :, None], 0.0) for x in (keys, values))
    windowless = replace(rule, window=0)
    mask = visible[:, None, None]
    return plain.attention(q.unsqueeze(2), keys, values, causal=False, mask=mask, rule=windowless).squeeze(2)


IMPLS: dict[str, Callable[[Tensor, Pages, Segments, AttentionRule], Tensor]] = {
    "reference": reference,
    "torch": by_torch,
}


def paged_attention(
    q: Tensor, pages: Pages, segments: Segments, rule: AttentionRule = PLAIN, impl: str | None = None
) -> Tensor:
    """q (N, H, E), whose keys and values `write` has put into the pages -> (N, H, width of the values), by the
    implementation named, or else the fastest there is. Each row reads the keys of its own sequence up to itself.
    """
    return IMPLS[impl or "torch"](q, pages, segments, rule)
