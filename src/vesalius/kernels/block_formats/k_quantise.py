"""Weights to q4_k and q6_k: searching the scales that lose least (ggml's "k-quants", 2023).

Rounding x to steps of (max - min) / 15 is not the best that a group can have: a slightly other step, fitted by least
squares to the integers that it gives, loses less. So a group tries a few steps; for each it rounds x to integers l and
then solves for the step and the minimum in closed form:

    symmetric   min over s      Σ w (x - s·l)²         s = Σ w x l / Σ w l²
    affine      min over s, m   Σ w (x - s·l - m)²     the 2 × 2 normal equations

and keeps the best. w weighs large weights more: they matter more in a product. The groups' steps are then rounded to
integers of a block's common scale, and x is rounded once more to the steps that the file will hold.
The searches are those of the reference implementation (make_qx_quants, make_qkx2_quants in ggml-quants.c), written for
all groups at once. Left out: weighing by activations (an "importance matrix").
"""

import torch
from torch import Tensor

from vesalius.kernels.block_formats.bits import float_to_half, half_to_float, packed
from vesalius.kernels.block_formats.k_quants import pack_scales


def quantise_q4_k(x: Tensor) -> Tensor:
    """float32 (…, 256) -> uint8 (…, 144)."""
    groups = x.unflatten(-1, (8, 32))
    weights = groups.abs() + groups.square().mean(-1, keepdim=True).sqrt()
    scale, least = fit_affine(groups, weights, top=15)  # (…, 8): x ≈ scale · l - least
    d, scale_codes = _common_scale(scale)
    dmin, least_codes = _common_scale(least)
    step = (half_to_float(d) * scale_codes).unsqueeze(-1)
    offset = (half_to_float(dmin) * least_codes).unsqueeze(-1)
    q = _ratio(groups + offset, step).round().clamp(0, 15)
    low_then_high = q.flatten(-2).unflatten(-1, (4, 2, 32))
    scales = pack_scales(scale_codes.to(torch.uint8), least_codes.to(torch.uint8))
    return torch.cat([d, dmin, scales, packed(low_then_high, 4).flatten(-2)], -1)


def quantise_q6_k(x: Tensor) -> Tensor:
    """float32 (…, 256) -> uint8 (…, 210)."""
    groups = x.unflatten(-1, (16, 16))
    scale = fit_symmetric(groups, half_range=32)  # (…, 16)
    largest = scale.gather(-1, scale.abs().argmax(-1, keepdim=True))
    d = float_to_half(largest / -128)
    codes = (scale * _ratio(-128, largest)).round().clamp(-128, 127)
    step = (half_to_float(d) * codes).unsqueeze(-1)
    q = (_ratio(groups, step).round().clamp(-32, 31) + 32).to(torch.uint8).flatten(-2)
    low = packed((q & 15).unflatten(-1, (2, 2, 64)), 4).flatten(-2)
    high = packed((q >> 4).unflatten(-1, (2, 4, 32)), 2).flatten(-2)
    return torch.cat([low, high, codes.to(torch.int8).view(torch.uint8), d], -1)


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


def fit_affine(x: Tensor, weights: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Groups (…, n) -> scale s and offset m, (…,) each and not negative, with the least Σ w (x - s·l + m)² over the
    steps tried, l in [0, top]."""
    high, best_low = x.amax(-1, keepdim=True), x.amin(-1, keepdim=True).clamp(max=0)
    best_scale = (high - best_low) / top
    best_error = _error(x, weights, _codes(x, best_low, high, top, top), best_scale, best_low)
    for i in range(21):
        codes = _codes(x, best_low, high, top - 1 + 0.1 * i, top)  # rounds from the best minimum until now
        scale, low, solvable = _least_squares(x, weights, codes)
        error = _error(x, weights, codes, scale, low)
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


def _error(x: Tensor, weights: Tensor, codes: Tensor, scale: Tensor, low: Tensor) -> Tensor:
    return ((scale * codes + low - x).square() * weights).sum(-1, keepdim=True)


def _common_scale(scale: Tensor) -> tuple[Tensor, Tensor]:
    """Group scales (…, groups), not negative -> a half-precision scale as bytes (…, 2), and codes below 64."""
    largest = scale.amax(-1, keepdim=True)
    return float_to_half(largest / 63), (scale * _ratio(63, largest)).round().clamp(max=63)


def _ratio(a: Tensor | float, b: Tensor) -> Tensor:
    """a / b, and 0 where that is no number: nothing is measured in steps of nothing."""
    return torch.nan_to_num(a / b, nan=0.0, posinf=0.0, neginf=0.0)
