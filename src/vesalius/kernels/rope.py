"""Rotary position embedding: turn pairs of query and key coordinates by an angle that grows with the position.
Su et al. 2021, arXiv:2104.09864, eq. 15.

The pairing is Hugging Face's: coordinate i turns with coordinate i + E/2 (the paper pairs neighbours; the two differ by
a fixed permutation of the projection's rows). The dot product of two turned vectors depends only on the distance of
their positions. Scaled variants (llama3, YaRN, dynamic NTK …) change the frequencies and not the rotation, see
models/positions.
"""

import torch
from torch import Tensor


def frequencies(head_dim: int, theta: float = 10_000.0) -> Tensor:
    """Angle per position of each of the E/2 pairs, float32: theta^(-2i/E)."""
    # Rounded as transformers rounds: far positions turn the last bit of a frequency into a visible angle.
    return 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)


def angles(positions: Tensor, inverse_frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """positions (…, T) int64 -> cos and sin, each (…, T, E) float32, the second half repeating the first."""
    turn = positions.float().unsqueeze(-1) * inverse_frequencies  # (…, T, E/2)
    turn = torch.cat((turn, turn), dim=-1)
    return turn.cos(), turn.sin()


def reference(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (B, H, T, E), cos and sin broadcastable to it -> the turned x, same shape and dtype.

    Where cos and sin are narrower than x, only as many coordinates turn, the first ones (GPT-NeoX, arXiv:2204.06745,
    section 2.1.1).

    >>> quarter = torch.tensor([[[[1.0, 0.0]]]])
    >>> reference(quarter, torch.zeros(2), torch.ones(2))
    tensor([[[[0., 1.]]]])
    """
    if (size := cos.shape[-1]) < x.shape[-1]:
        return torch.cat((reference(x[..., :size], cos, sin), x[..., size:]), dim=-1)
    first, second = x.chunk(2, dim=-1)
    swapped = torch.cat((-second, first), dim=-1)
    return x * cos.to(x.dtype) + swapped * sin.to(x.dtype)


class _Rope(torch.autograd.Function):
    """The transpose of a rotation is the rotation back, so the backward needs only cos and sin, never x."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors  # type: ignore[attr-defined]
        return _turn(grads[0], cos, -sin), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`reference` written into one output, half by half, without the swapped copy."""
    size = cos.shape[-1]
    half = size // 2
    if size == x.shape[-1]:
        out = x * cos
    else:
        out = x.clone()
        out[..., :size].mul_(cos)
    out[..., :half].addcmul_(x[..., half:size], sin[..., :half], value=-1)
    out[..., half:size].addcmul_(x[..., :half], sin[..., half:])
    return out


def fused(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The same as `reference`, with a hand-written backward where one may follow."""
    if torch.is_grad_enabled():
        return _Rope.apply(x, cos, sin)
    return _turn(x, cos.to(x.dtype), sin.to(x.dtype))


IMPLS = {"reference": reference, "fused": fused}


def rotate(x: Tensor, cos: Tensor, sin: Tensor, impl: str | None = None) -> Tensor:
    """Turns x by the implementation named, or else by the fastest: `fused` in eager, `reference` where a compiler fuses
    it.
    """
    return IMPLS[impl or ("reference" if torch.compiler.is_compiling() else "fused")](x, cos, sin)
