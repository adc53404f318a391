"""How many nats, how many bits: the measures in which language models are compared.

Everything is in nats, the unit of the loss, until `bits_per_byte` leaves it. A loss per token depends on how long the
tokens are. Bits per byte do not: models with different tokenizers, n-grams and compressors stand on one scale.

Sources: Shannon 1948, sections 6-7; Kullback & Leibler 1951; Cover & Thomas 2006, chapter 2.
Left out: continuous variables (differential entropy).
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray


def entropy(p: ArrayLike) -> NDArray[np.float64]:
    """p (…, V), each row a distribution -> (…,) nats: -Σ p log p, where 0 log 0 = 0. ValueError where a row is none.

    >>> float(entropy([0.25, 0.25, 0.25, 0.25]) / math.log(2))
    2.0
    """
    return cross_entropy(p, p)


def cross_entropy(p: ArrayLike, q: ArrayLike) -> NDArray[np.float64]:
    """p, q (…, V) -> (…,) nats: -Σ p log q, the mean cost of coding draws from p with the code of q.

    Infinite where q rules out what p allows. ValueError where a row is not a distribution.
    """
    p, q = _distributions(p, "p"), _distributions(q, "q")
    with np.errstate(divide="ignore", invalid="ignore"):
        costs = np.where(p > 0, -p * np.log(q), 0.0)  # (…, V)
    return costs.sum(-1)


def kl_divergence(p: ArrayLike, q: ArrayLike) -> NDArray[np.float64]:
    """p, q (…, V) -> (…,) nats: Σ p log(p/q), what coding p with q costs above the entropy of p.

    Infinite, and ValueError, as in `cross_entropy`.
    """
    p, q = _distributions(p, "p"), _distributions(q, "q")
    with np.errstate(divide="ignore", invalid="ignore"):
        excess = np.where(p > 0, p * (np.log(p) - np.log(q)), 0.0)  # (…, V)
    return excess.sum(-1)


def perplexity(nats_per_token: float) -> float:
    """The number of equally likely tokens that would be as hard to guess: e^loss.

    >>> round(perplexity(math.log(50)))
    50
    """
    return math.exp(nats_per_token)


def bits_per_byte(nats: float, n_bytes: int) -> float:
    """The total cost of a text in nats, and its length in bytes -> bits per byte.

    >>> bits_per_byte(3 * math.log(256), 3)  # a uniform model over the 256 byte values
    8.0
    """
    if n_bytes <= 0:
        raise ValueError(f"bits per byte needs some text, got {n_bytes} bytes")
    return nats / (math.log(2) * n_bytes)


def _distributions(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """`values` as float64, after checking that every row is one distribution."""
    rows = np.asarray(values, dtype=np.float64)
    sums = rows.sum(-1)
    if (rows < 0).any() or not np.allclose(sums, 1.0, rtol=0, atol=1e-6):
        raise ValueError(
            f"{name} must hold probabilities that sum to 1, got sums {sums} and least {rows.min()}: divide by the sum"
        )
    return rows
