"""Weights to q2_k, q3_k, q4_k, q5_k and q6_k: searching the scales that lose least (ggml's "k-quants", 2023).

Rounding x to steps of (max - min) / 15 is not the best that a group can have: a slightly other step, fitted by least
squares to the integers that it gives, loses less. So a group tries a few steps; for each it rounds x to integers l and
then solves for the step and the minimum in closed form:

    symmetric   min over s      Σ w (x - s·l)²         s = Σ w x l / Σ w l²
    affine      min over s, m   Σ w (x - s·l - m)²     the 2 × 2 normal equations

and keeps the best. w weighs large weights more: they matter more in a product. The groups' steps are then rounded to
integers of a block's common scale, and x is rounded once more to the steps that the file will hold.
The searches are those of the reference implementation (make_qx_quants, make_qkx2_quants in ggml-quants.c), written for
all groups at once. q3_k has so few steps that trying some is too coarse: there one integer after the other moves to
where the scale that fits the rest puts it (make_q3_quants). Left out: weighing by activations (an "importance matrix").
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from vesalius.kernels.block_formats.bits import float_to_half, half_to_float, packed
from vesalius.kernels.block_formats.k_quants import pack_scales


@dataclass(frozen=True)
class Search:
    """The steps that an affine group tries: it is cut into top + first, top + first + 0.1, … steps."""

    top: int
    first: float
    tries: int
    absolute: bool = False  # errors are compared as they are and not squared


COARSE = Search(top=3, first=-0.5, tries=16, absolute=True)
MIDDLE = Search(top=15, first=-1.0, tries=21)
FINE = Search(top=31, first=-0.5, tries=16)


MOVES = 5
"""How often q3_k lets every integer of a group move."""


def quantise_q2_k(x: Tensor) -> Tensor:
    """float32 (…, 256) -> uint8 (…, 84)."""
    groups = x.unflatten(-1, (16, 16))
    d, scale_codes, dmin, least_codes, q = _affine(groups, groups.abs(), COARSE, scale_top=15)
    scales = scale_codes | least_codes << 4
    return torch.cat([scales, packed(q.unflatten(-1, (2, 4, 32)), 2).flatten(-2), d, dmin], -1)


def quantise_q3_k(x: Tensor) -> Tensor:
    """float32 (…, 256) -> uint8 (…, 110)."""
    groups = x.unflatten(-1, (16, 16))
    d, codes, q = _symmetric(groups, fit_by_moves(groups, half_range=4), half_range=4, scale_half_range=32)
    codes, q = (codes + 32).to(torch.uint8), (q + 4).to(torch.uint8)
    low = packed((q & 3).unflatten(-1, (2, 4, 32)), 2).flatten(-2)
    high = packed((q >> 2).unflatten(-1, (8, 32)), 1)
    low_scales, high_scales = (
        packed((codes & 15).unflatten(-1, (2, 8)), 4),
        packed((codes >> 4).unflatten(-1, (4, 4)), 2),
    )
    return torch.cat([high, low, low_scales, high_scales, d], -1)


def quantise_q4_k(x: Tensor) -> Tensor:
    """float32 (…, 256) -> uint8 (…, 144)."""
    groups = x.unflatten(-1, (8, 32))
    d, scale_codes, dmin, least_codes, q = _affine(groups, _towards_large(groups), MIDDLE, scale_top=63)
    low_then_high = q.unflatten(-1, (4, 2, 32))
    return torch.cat([d, dmin, pack_scales(scale_codes, least_codes), packed(low_then_high, 4).flatten(-2)], -1)


def quantise_q5_k(x: Tensor) -> Tensor:
    """float32 (…, 256) -> uint8 (…, 176)."""
    groups = x.unflatten(-1, (8, 32))
    d, scale_codes, dmin, least_codes, q = _affine(groups, _towards_large(groups), FINE, scale_top=63)
    low = packed((q & 15).unflatten(-1, (4, 2, 32)), 4).flatten(-2)
    high = packed((q >> 4).unflatten(-1, (8, 32)), 1)
    return torch.cat([d, dmin, pack_scales(scale_codes, least_codes), high, low], -1)


def quantise_q6_k(x: Tensor) -> Tensor:
    """float32 (…, 256) -> uint8 (…, 210)."""
    groups = x.unflatten(-1, (16, 16))
    d, codes, q = _symmetric(groups, fit_symmetric(groups, half_range=32), half_range=32, scale_half_range=128)
    q = (q + 32).to(torch.uint8)
    low = packed((q & 15).unflatten(-1, (2, 2, 64)), 4).flatten(-2)
    high = packed((q >> 4).unflatten(-1, (2, 4, 32)), 2).flatten(-2)
    return torch.cat([low, high, codes.to(torch.int8).view(torch.uint8), d], -1)


def _affine(
    groups: Tensor, weights: Tensor, search: Search, scale_top: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Groups (…, groups, n) -> d (…, 2), scale codes (…, groups), dmin (…, 2), codes of minima (…, groups), all bytes,
    and the values' codes uint8 (…, 256)."""
    scale, least = fit_affine(groups, weights, search)  # (…, groups): x ≈ scale · l - least
    d, scale_codes = _common_scale(scale, scale_top)
    dmin, least_codes = _common_scale(least, scale_top)
    step = (half_to_float(d) * scale_codes).unsqueeze(-1)
    offset = (half_to_float(dmin) * least_codes).unsqueeze(-1)
    q = _ratio(groups + offset, step).round().clamp(0, search.top)
    return d, scale_codes.to(torch.uint8), dmin, least_codes.to(torch.uint8), q.to(torch.uint8).flatten(-2)


def _symmetric(groups: Tensor, scale: Tensor, half_range: int, scale_half_range: int) -> tuple[Tensor, Tensor, Tensor]:
    """Groups (…, groups, n) and their scales (…, groups) -> d as bytes (…, 2), codes of the scales (…, groups) and of
    the values (…, 256), both around 0."""
    largest = scale.gather(-1, scale.abs().argmax(-1, keepdim=True))
    d = float_to_half(largest / -scale_half_range)
    codes = (scale * _ratio(-scale_half_range, largest)).round().clamp(-scale_half_range, scale_half_range - 1)
    step = (half_to_float(d) * codes).unsqueeze(-1)
    return d, codes, _ratio(groups, step).round().clamp(-half_range, half_range - 1).flatten(-2)


def _towards_large(groups: Tensor) -> Tensor:
    """How much each value counts: more where it is large, and never nothing."""
    return groups.abs() + groups.square().mean(-1, keepdim=True).sqrt()


def fit_symmetric(x: Tensor, half_range: int) -> Tensor:
    """Groups (…, n) -> the scale s (…,) with the least Σ x² (x - s·l)² over the steps tried, l in [-half_range,
    half_range)."""
    extreme = x.gather(-1, x.abs().argmax(-1, keepdim=True))
    weights = x.square()
    best_gain = best_scale = torch.zeros_like(extreme)
    for stretch in [0.0, *(0.1 * i for i in range(-9, 10) if i)]:
        codes = (x * _ratio(-(half_range + stretch), extreme)).round().clamp(-half_range, half_range - 1)
        xl = (weights * x * codes).sum(-1, keepdim=True)
        ll = (weights * codes * codes).sum(-1, keepdim=True)
        scale = _ratio(xl, ll)
        gain = xl * scale  # what the fit takes off Σ w x²
        better = gain > best_gain
        best_gain, best_scale = torch.where(better, gain, best_gain), torch.where(better, scale, best_scale)
    return best_scale.squeeze(-1)


def fit_by_moves(x: Tensor, half_range: int) -> Tensor:
    """Groups (…, n) -> a scale s (…,) whose Σ x² (x - s·l)² no single l in [-half_range, half_range) can lessen, or
    nearly so, after MOVES rounds."""
    weights = x.square()
    extreme = x.gather(-1, x.abs().argmax(-1, keepdim=True))
    codes = (x * _ratio(-half_range, extreme)).round().clamp(-half_range, half_range - 1)
    xl, ll = (weights * x * codes).sum(-1), (weights * codes * codes).sum(-1)
    for _ in range(MOVES):
        for i in range(x.shape[-1]):
            w, value, code = weights[..., i], x[..., i], codes[..., i]
            rest_xl, rest_ll = xl - w * value * code, ll - w * code * code
            moved = _ratio(value * rest_ll, rest_xl).round().clamp(-half_range, half_range - 1)
            new_xl, new_ll = rest_xl + w * value * moved, rest_ll + w * moved * moved
            better = (rest_xl > 0) & (new_ll > 0) & (new_xl * new_xl * ll > xl * xl * new_ll)
            codes[..., i] = torch.where(better, moved, code)
            xl, ll = torch.where(better, new_xl, xl), torch.where(better, new_ll, ll)
    return _ratio(xl, ll)


def fit_affine(x: Tensor, weights: Tensor, search: Search) -> tuple[Tensor, Tensor]:
    """Groups (…, n) -> scale s and offset m, (…,) each and not negative, with the least Σ w (x - s·l + m)² over the
    steps tried, l in [0, top]."""
    top, absolute = search.top, search.absolute
    high, best_low = x.amax(-1, keepdim=True), x.amin(-1, keepdim=True).clamp(max=0)
    best_scale = (high - best_low) / top
    best_error = _error(x, weights, _codes(x, best_low, high, top, top), best_scale, best_low, absolute)
    for i in range(search.tries):
        codes = _codes(x, best_low, high, top + search.first + 0.1 * i, top)  # rounds from the best minimum until now
        scale, low, solvable = _least_squares(x, weights, codes)
        error = _error(x, weights, codes, scale, low, absolute)
        better = solvable & (error < best_error)
        best_error = torch.where(better, error, best_error)
        best_scale, best_low = torch.where(better, scale, best_scale), torch.where(better, low, best_low)
    return best_scale.squeeze(-1), -best_low.squeeze(-1)


def _least_squares(x: Tensor, weights: Tensor, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scale, minimum (never above 0) and whether there is a solution, (…, 1) each: the normal equations of
    x ≈ scale · codes + minimum."""
    weighted = weights * codes
    w, wx = weights.sum(-1, keepdim=True), (weights * x).sum(-1, keepdim=True)
    wl, wll = weighted.sum(-1, keepdim=True), (weighted * codes).sum(-1, keepdim=True)
    wxl = (weighted * x).sum(-1, keepdim=True)
    determinant = w * wll - wl * wl
    scale, low = _ratio(w * wxl - wx * wl, determinant), _ratio(wll * wx - wl * wxl, determinant)
    return torch.where(low > 0, _ratio(wxl, wll), scale), low.clamp(max=0), determinant > 0


def _codes(x: Tensor, low: Tensor, high: Tensor, steps: float, top: int) -> Tensor:
    """x rounded to integers in [0, top], with so many steps between `low` and `high`."""
    return ((x - low) * _ratio(steps, high - low)).round().clamp(0, top)


def _error(x: Tensor, weights: Tensor, codes: Tensor, scale: Tensor, low: Tensor, absolute: bool) -> Tensor:
    off = scale * codes + low - x
    return ((off.abs() if absolute else off.square()) * weights).sum(-1, keepdim=True)


def _common_scale(scale: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Group scales (…, groups), not negative -> a half-precision scale as bytes (…, 2), and codes up to `top`."""
    largest = scale.amax(-1, keepdim=True)
    return float_to_half(largest / top), (scale * _ratio(top, largest)).round().clamp(max=top)


def _ratio(a: Tensor | float, b: Tensor) -> Tensor:
    """a / b, and 0 where that is no number: nothing is measured in steps of nothing."""
    return torch.nan_to_num(a / b, nan=0.0, posinf=0.0, neginf=0.0)
