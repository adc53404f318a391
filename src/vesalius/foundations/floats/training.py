"""Where training breaks in each format: one small model, trained from the same weights in all of them.

A number can be rounded in three places, and each fails in its own way. Activations need precision. Gradients need
range: what is below the smallest number is gone, unless the loss is scaled (stability.py). Weights need to take in
updates a thousand times smaller than themselves: rounded to the nearest, they stop where an update is less than half a
unit in the last place, long before the loss is low. Hence mixed precision: weights in float32, everything else in few
bits (Micikevicius et al. 2017, arXiv:1710.03740); or weights in few bits, rounded stochastically.

The model guesses a byte from the four before it with one hidden layer (Bengio et al. 2003). Sums inside products stay
in float32, as in tensor cores; what goes in and comes out is rounded. Left out: a scale for each tensor or block, which
is what makes FP8 and FP4 work in practice (blocks.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesalius.foundations.autograd.elementwise import GELU
from vesalius.foundations.autograd.nn import Embedding, Linear, Module
from vesalius.foundations.autograd.normalising import cross_entropy
from vesalius.foundations.autograd.operation import Operation, Vjp
from vesalius.foundations.autograd.optim import AdamW
from vesalius.foundations.autograd.tensor import Tensor
from vesalius.foundations.floats.format import FORMATS, FloatFormat, Specials
from vesalius.foundations.floats.rounding import Rounding, round_to

FP32, BF16, FP16 = FORMATS["fp32"], FORMATS["bf16"], FORMATS["fp16"]
E4M3, E5M2, E2M1 = FORMATS["fp8_e4m3"], FORMATS["fp8_e5m2"], FORMATS["fp4_e2m1"]
CONTEXT, WIDTH, HIDDEN, BATCH = 4, 16, 64, 128


@dataclass(frozen=True, kw_only=True)
class Precision:
    """What activations, gradients and weights are rounded to, how weights are, and what multiplies the loss."""

    forward: FloatFormat = FP32
    backward: FloatFormat = FP32
    weights: FloatFormat = FP32
    rounding: Rounding = Rounding.NEAREST
    loss_scale: float = 1.0


SMALL = 2.0**-10
"""A loss is a mean: in a batch of 131,072 tokens, each token's gradient is 2^-10 of what it is in one of 128."""

PRECISIONS = {
    "fp32": Precision(),
    "bf16, weights fp32": Precision(forward=BF16, backward=BF16),
    "bf16": Precision(forward=BF16, backward=BF16, weights=BF16),
    "bf16, weights stochastic": Precision(forward=BF16, backward=BF16, weights=BF16, rounding=Rounding.STOCHASTIC),
    "fp16, tiny gradients": Precision(forward=FP16, backward=FP16, loss_scale=SMALL / 16),
    "fp8": Precision(forward=E4M3, backward=E5M2),
    "fp8, small gradients": Precision(forward=E4M3, backward=E5M2, loss_scale=SMALL),
    "fp4, scaled": Precision(forward=E2M1, backward=E2M1, loss_scale=2.0**10),
}
"""Weights are float32 where nothing else is said. FP8 is E4M3 forward and E5M2 backward (arXiv:2209.05433)."""


def _rounded(x: NDArray[Any], to: FloatFormat, **_: Any) -> NDArray[Any]:
    """Beyond the largest number is infinity, which ends a training; a format without infinities saturates."""
    saturate = to.specials is not Specials.INFINITY_AND_NAN
    return x if to is FP32 else round_to(x, to, saturate=saturate).astype(x.dtype)


def _swap(g: Any, call: Any) -> Any:
    return ROUND(g, to=call.options["back"], back=call.options["to"])


ROUND: Operation = Operation("round", _rounded, (Vjp(_swap),))
"""A number to the format `to`, and its gradient, which passes as if nothing had happened, to the format `back`."""


class NextByte(Module):
    """ids (B, 4) -> logits (B, 256), with every product's inputs and outputs rounded."""

    def __init__(self, precision: Precision, generator: np.random.Generator) -> None:
        self.precision = precision
        self.embed = Embedding(256, WIDTH, generator, std=0.3)
        self.hidden = Linear(CONTEXT * WIDTH, HIDDEN, generator, std=0.1)
        self.out = Linear(HIDDEN, 256, generator, std=0.1)

    def __call__(self, ids: NDArray[np.integer]) -> Tensor:
        x = self._round(self.embed(ids).reshape(len(ids), CONTEXT * WIDTH))
        x = self._round(GELU(self._product(self.hidden, x)))
        return self._product(self.out, x)

    def _product(self, layer: Linear, x: Tensor) -> Tensor:
        return self._round(x @ self._round(layer.weight).T + layer.bias)

    def _round(self, x: Tensor) -> Tensor:
        return ROUND(x, to=self.precision.forward, back=self.precision.backward)


def losses(
    ids: NDArray[np.integer], precision: Precision, *, steps: int, seed: int = 0, learning_rate: float = 3e-3
) -> Iterator[float]:
    """Trains on random places of `ids` (N,), bytes; one loss in nats a step. All precisions see the same batches.

    NaN from where it breaks for good. ValueError where there are no more than four ids.
    """
    if len(ids) <= CONTEXT:
        raise ValueError(f"a byte is guessed from {CONTEXT} others, got {len(ids)} in all")
    generator = np.random.default_rng(seed)
    model = NextByte(precision, generator)
    optimizer = AdamW(model.parameters(), learning_rate, weight_decay=0.0)
    rounder = np.random.default_rng(seed + 1)
    _store(optimizer.parameters, precision, rounder)
    for _ in range(steps):
        starts = generator.integers(0, len(ids) - CONTEXT, BATCH)
        yield _step(model, optimizer, ids[starts[:, None] + np.arange(CONTEXT + 1)])
        _store(optimizer.parameters, precision, rounder)


def compare(ids: NDArray[np.integer], *, steps: int, learning_rate: float = 3e-3) -> dict[str, list[float]]:
    """The losses of all `PRECISIONS` from the same start, for figure.curves_svg; some seconds for each 100 steps."""
    return {
        name: list(losses(ids, precision, steps=steps, learning_rate=learning_rate))
        for name, precision in PRECISIONS.items()
    }


@np.errstate(over="ignore", invalid="ignore")
def _step(model: NextByte, optimizer: AdamW, rows: NDArray[np.integer]) -> float:
    """The loss of rows (B, 5) before the update, which sees gradients without the loss's scale."""
    scale = model.precision.loss_scale
    loss = cross_entropy(model(rows[:, :-1]), rows[:, -1])
    optimizer.zero_grad()
    (loss * scale).backward()
    for parameter in optimizer.parameters:
        assert parameter.grad is not None  # the model uses all that it has
        parameter.grad.data /= scale
    optimizer.step()
    return loss.item()


@np.errstate(over="ignore", invalid="ignore")
def _store(parameters: list[Tensor], precision: Precision, generator: np.random.Generator) -> None:
    """Weights as their format holds them."""
    if precision.weights is FP32:
        return
    for parameter in parameters:
        parameter.data[...] = round_to(parameter.data, precision.weights, precision.rounding, generator=generator)
        parameter.version.bump("rounding")
