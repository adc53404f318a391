"""Five ways to add numbers up, and what each may lose.

Every addition rounds, by at most u = ε/2 of its result. How often a number passes through a rounding decides the error
(Higham 2002, Accuracy and Stability of Numerical Algorithms, sections 4.2 and 4.3; γ(k) = k u / (1 - k u)):

    sequential   one after another                            γ(n - 1) Σ|x|
    blocked      runs of b, then their sums                   γ(b - 1 + ⌈n / b⌉ - 1) Σ|x|     what a GPU or SIMD does
    pairwise     halves, and halves of halves                 γ(⌈log2 n⌉) Σ|x|                what NumPy does
    Kahan        carries the last addition's error along      (2u + O(n u²)) Σ|x|             Kahan 1965
    Neumaier     collects all errors and adds them at last    u |Σx| + γ(n - 1)² Σ|x|         Neumaier 1974; Ogita, Rump
                                                                                              & Oishi 2005, (4.6)

All arithmetic happens in the type of the numbers given, so float16 shows in a hundred terms what float32 shows in a
million. Left out: exact sums, which Python has as math.fsum.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.floating]
BLOCK = 128


def sequential(x: Vector) -> np.floating:
    """x (N,) -> the sum in x's type, from the first number to the last."""
    return np.add.accumulate(np.concatenate([np.zeros(1, x.dtype), x]))[-1]


def blocked(x: Vector, block: int = BLOCK) -> np.floating:
    """Sequential sums of runs of `block` numbers, and the sequential sum of those."""
    padded = np.concatenate([x, np.zeros(-len(x) % block, x.dtype)]).reshape(-1, block)
    runs = np.add.accumulate(padded, axis=1)[:, -1]
    return sequential(runs)


def pairwise(x: Vector) -> np.floating:
    """Neighbours are added until one number is left; an odd one waits."""
    while len(x) > 1:
        pairs = x[: len(x) // 2 * 2].reshape(-1, 2)
        x = np.concatenate([pairs[:, 0] + pairs[:, 1], x[len(pairs) * 2 :]])
    return x[0] if len(x) else x.dtype.type(0)


def kahan(x: Vector) -> np.floating:
    """What the last addition dropped is taken off the next number: (sum + y) - sum - y is that loss, exactly.

    Fails where a number is larger than the sum so far, whose digits are then the ones dropped.
    """
    total = lost = x.dtype.type(0)
    for number in x:
        corrected = number - lost
        new = total + corrected
        lost = (new - total) - corrected
        total = new
    return total


def neumaier(x: Vector) -> np.floating:
    """As Kahan's, with the larger of the two asked for what was dropped, and the losses in a sum of their own.

    >>> x = np.array([1.0, 1e100, 1.0, -1e100])
    >>> float(kahan(x)), float(neumaier(x))
    (0.0, 2.0)
    """
    total = losses = x.dtype.type(0)
    for number in x:
        new = total + number
        larger, smaller = (total, number) if abs(total) >= abs(number) else (number, total)
        losses = losses + ((larger - new) + smaller)
        total = new
    return total + losses


METHODS: dict[str, Callable[[Vector], np.floating]] = {
    "sequential": sequential,
    "blocked": blocked,
    "pairwise": pairwise,
    "kahan": kahan,
    "neumaier": neumaier,
}


def error(method: str, x: Vector) -> float:
    """How far a method's sum of finite x (N,) is from the exact one."""
    return abs(math.fsum([float(METHODS[method](x)), *(-x.astype(np.float64)).tolist()]))


def bound(method: str, x: Vector) -> float:
    """The most that the error of a method can be for x (N,), while nothing overflows. Infinite where N u reaches 1."""
    u, n = float(np.finfo(x.dtype).eps) / 2, max(len(x), 1)
    magnitudes = math.fsum(np.abs(x.astype(np.float64)).tolist())
    additions = {
        "sequential": n - 1,
        "blocked": BLOCK - 1 + math.ceil(n / BLOCK) - 1,
        "pairwise": math.ceil(math.log2(n)),
    }
    if method in additions:
        return _gamma(additions[method], u) * magnitudes
    if method == "kahan":
        return (2 * u + 3 * n * _gamma(n, u) * u) * magnitudes
    return u * abs(math.fsum(x.astype(np.float64).tolist())) + _gamma(n - 1, u) ** 2 * magnitudes


def _gamma(k: int, u: float) -> float:
    return k * u / (1 - k * u) if k * u < 1 else math.inf
