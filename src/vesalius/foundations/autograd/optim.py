"""Optimizers: what to do with a gradient.

    SGD      v = m v + g                    w -= lr v                            Polyak 1964
    AdamW    m = β₁ m + (1 - β₁) g          m̂ = m / (1 - β₁ᵗ)
             v = β₂ v + (1 - β₂) g²         v̂ = v / (1 - β₂ᵗ)
             w -= lr λ w                    w -= lr m̂ / (√v̂ + ε)                Loshchilov & Hutter 2017, 1711.05101

Decay works on the weight itself and not through the gradient, where Adam would divide it away. Everything happens in
place in arrays that are made once. Left out: AMSGrad, Nesterov's momentum, groups of parameters.
"""

from collections.abc import Sequence

import numpy as np

from vesalius.foundations.autograd.tensor import Tensor


class SGD:
    """Steps against the gradient, with momentum as torch defines it. Parameters without a gradient stay."""

    def __init__(self, parameters: Sequence[Tensor], learning_rate: float, momentum: float = 0.0) -> None:
        self.parameters = list(parameters)
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.velocities = [np.zeros_like(parameter.data) for parameter in self.parameters]

    def step(self) -> None:
        for parameter, velocity in zip(self.parameters, self.velocities, strict=True):
            if parameter.grad is not None:
                velocity *= self.momentum
                velocity += parameter.grad.data
                parameter.data -= self.learning_rate * velocity
                parameter.version.bump("the optimizer's step")

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.zero_grad()


class AdamW:
    """Adam with decoupled weight decay; torch's formula and torch's defaults."""

    def __init__(
        self,
        parameters: Sequence[Tensor],
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        self.parameters = list(parameters)
        self.learning_rate = learning_rate
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay
        self.steps = 0
        self.means = [np.zeros_like(parameter.data) for parameter in self.parameters]
        self.squares = [np.zeros_like(parameter.data) for parameter in self.parameters]

    def step(self) -> None:
        self.steps += 1
        for parameter, mean, square in zip(self.parameters, self.means, self.squares, strict=True):
            if parameter.grad is not None:
                self._update(parameter, parameter.grad.data, mean, square)

    def _update(self, parameter: Tensor, g: np.ndarray, mean: np.ndarray, square: np.ndarray) -> None:
        first, second = self.betas
        mean *= first
        mean += (1 - first) * g
        square *= second
        square += (1 - second) * np.square(g)
        scale = np.sqrt(square)
        scale /= (1 - second**self.steps) ** 0.5
        scale += self.eps
        np.divide(mean, scale, out=scale)
        scale *= self.learning_rate / (1 - first**self.steps)
        parameter.data *= 1 - self.learning_rate * self.weight_decay
        parameter.data -= scale
        parameter.version.bump("the optimizer's step")

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.zero_grad()
