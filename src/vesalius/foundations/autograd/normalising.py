"""Operations that put a row in proportion: softmax, layer norm, and the loss that is read off a softmax.

Each is one operation with one rule, not a chain of the small ones it is made of: shorter to differentiate, a few passes
over memory in place of a dozen, and safe, since the largest logit is subtracted before anything is raised.

    p = softmax(x)         dx = p (g - Σ p g)
    x̂ = (x - μ) / σ        dx = (g - mean(g) - x̂ mean(g x̂)) / σ      Ba et al. 2016, arXiv:1607.06450
    L = -mean log p[y]     dx = (p - onehot(y)) / N
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesalius.foundations.autograd.indexing import one_hot
from vesalius.foundations.autograd.operation import OUT, Call, Numeric, Operation, Vjp


def _softmax(x: NDArray[Any], axis: int) -> NDArray[Any]:
    out = x - x.max(axis, keepdims=True)
    np.exp(out, out=out)
    out /= out.sum(axis, keepdims=True)
    return out


def _softmax_rule(g: Numeric, call: Call, p: Numeric) -> Numeric:
    weighted = g * p
    return weighted - p * np.sum(weighted, axis=call.options["axis"], keepdims=True)


SOFTMAX = Operation("softmax", _softmax, (Vjp(_softmax_rule, (OUT,)),))


def _log_sum_exp(x: NDArray[Any], axis: int) -> NDArray[Any]:
    highest = x.max(axis, keepdims=True)
    return highest + np.log(np.exp(x - highest).sum(axis, keepdims=True))


def _log_softmax_rule(g: Numeric, call: Call, log_p: Numeric) -> Numeric:
    return g - np.exp(log_p) * np.sum(g, axis=call.options["axis"], keepdims=True)


LOG_SOFTMAX = Operation("log_softmax", lambda x, axis: x - _log_sum_exp(x, axis), (Vjp(_log_softmax_rule, (OUT,)),))
LOG_SUM_EXP = Operation(
    "log_sum_exp", _log_sum_exp, (Vjp(lambda g, call, x: g * SOFTMAX(x, axis=call.options["axis"]), (0,)),)
)
"""Along an axis, which stays with size 1. The gradient of a soft maximum is a softmax."""


def _standardise(x: NDArray[Any], eps: float) -> NDArray[Any]:
    out = x - _row_mean(x)
    out *= 1 / np.sqrt(_row_mean_product(out, out) + eps)
    return out


def _row_mean(x: Numeric) -> Numeric:
    return np.sum(x, axis=-1, keepdims=True) * (1 / x.shape[-1])


def _row_mean_product(a: Numeric, b: Numeric) -> Numeric:
    """The mean of a b over the last axis, which stays with size 1; no product of full size is written."""
    return np.expand_dims(np.einsum("...d,...d->...", a, b), -1) * (1 / a.shape[-1])


def _standardise_rule(g: Numeric, call: Call, x: Numeric, out: Numeric) -> Numeric:
    centred = x - _row_mean(x)
    scale = 1 / np.sqrt(_row_mean_product(centred, centred) + call.options["eps"])
    return (g - _row_mean(g) - out * _row_mean_product(g, out)) * scale


STANDARDISE = Operation("standardise", _standardise, (Vjp(_standardise_rule, (0, OUT)),))
"""The last axis to mean 0 and variance 1."""


def softmax(x: Numeric, axis: int = -1) -> Numeric:
    return SOFTMAX(x, axis=axis)


def log_softmax(x: Numeric, axis: int = -1) -> Numeric:
    return LOG_SOFTMAX(x, axis=axis)


def layer_norm(x: Numeric, weight: Numeric, bias: Numeric, eps: float = 1e-5) -> Numeric:
    """x (…, D), weight (D,), bias (D,) -> (…, D)."""
    return STANDARDISE(x, eps=eps) * weight + bias


def _cross_entropy(logits: NDArray[Any], targets: NDArray[np.integer]) -> NDArray[Any]:
    picked = logits[np.arange(len(targets)), targets]
    return np.mean(_log_sum_exp(logits, -1)[:, 0] - picked)


def _cross_entropy_rule(g: Numeric, call: Call, logits: Numeric) -> Numeric:
    targets = call.options["targets"]
    surplus = SOFTMAX(logits, axis=-1) - one_hot(targets, logits.shape[-1], logits.dtype)
    return surplus * (g * (1 / len(targets)))


CROSS_ENTROPY = Operation("cross_entropy", _cross_entropy, (Vjp(_cross_entropy_rule, (0,)),))


def cross_entropy(logits: Numeric, targets: NDArray[np.integer]) -> Numeric:
    """logits (…, V), targets (…) integers -> the mean of -log softmax(logits)[target], in nats.

    ValueError where shapes do not fit, there are no targets, or a target is outside the vocabulary.
    """
    V = logits.shape[-1]
    if logits.shape[:-1] != targets.shape or not targets.size:
        raise ValueError(f"targets must have shape {logits.shape[:-1]} and at least one id, got {targets.shape}")
    if not 0 <= targets.min() <= targets.max() < V:
        raise ValueError(f"targets must be 0 to {V - 1}, got {targets.min()} to {targets.max()}")
    return CROSS_ENTROPY(np.reshape(logits, (-1, V)), targets=targets.reshape(-1))
