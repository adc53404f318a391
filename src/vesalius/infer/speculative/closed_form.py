"""What speculative decoding gains: Leviathan et al. 2023, arXiv:2211.17192, equation 1 and theorem 3.8.

With α the probability that a drafted token stands once those before it do, a chain of γ tokens gives

    E[tokens of a step] = 1 + α + … + α^γ = (1 - α^(γ+1)) / (1 - α)

and with c what a drafted token costs, as a part of a plain step, the step takes γc + 1 plain ones:

    speed-up = (1 - α^(γ+1)) / ((1 - α)(γc + 1))

The theorem counts only the drafting in c and reads γ + 1 rows as fast as one. Here c is measured, so reading is in it.
The formula takes every token's chance to be the same and independent; texts come in stretches, so it is a little off.
"""


def expected_tokens(alpha: float, depth: int | float) -> float:
    """Tokens of a step whose draft is `depth` deep, the one that is not drafted included.

    >>> expected_tokens(0.5, 2), expected_tokens(1.0, 3)
    (1.75, 4.0)
    """
    return float(depth + 1) if alpha >= 1 else (1 - alpha ** (depth + 1)) / (1 - alpha)


def speedup(alpha: float, gamma: int | float, cost: float, depth: int | float | None = None) -> float:
    """How many times as fast as plain decoding. A tree of `gamma` tokens is only `depth` deep; a chain is all of it.

    >>> round(speedup(0.8, 4, 0.05), 3)
    2.801
    """
    return expected_tokens(alpha, gamma if depth is None else depth) / (gamma * cost + 1)
