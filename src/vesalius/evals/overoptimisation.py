"""Overoptimisation: a proxy reward is pushed up, and at some point what it stands for goes down. Gao, Schulman & Hilton
2022, arXiv:2210.10760.

How far a policy has gone is d = √KL(policy ‖ what it began as). Best-of-n needs no training to go far: drawing n
answers and keeping the one that the proxy likes best has (Stiennon et al. 2020, arXiv:2009.01325, appendix G.3)

    KL_bon = log n - (n - 1)/n

The gold reward against d is fitted by

    R_bon(d) = d (α - β d)        R_policy(d) = d (α - β log d)

whose turns are at d = α/(2β), and at d = exp(α/β - 1). For the first no training is needed, only N answers to each
prompt: `best_of_n` gives the mean of every n ≤ N at once (Nakano et al. 2021, arXiv:2112.09332, appendix I).
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Method = Literal["best_of_n", "policy"]


@dataclass(frozen=True, kw_only=True)
class Point:
    """Where one policy is: nats from its beginning, and its mean rewards; `label` tells it ("n = 8", "step 40")."""

    kl: float
    proxy: float
    gold: float
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Where gold is highest among the points, and how much of its rise is lost by the last one.

    kl, gold   of the highest point
    lost       highest gold minus the last one
    proxy_rise what the proxy went on rising from there to the last point
    """

    kl: float
    gold: float
    lost: float
    proxy_rise: float


@dataclass(frozen=True, kw_only=True)
class Fit:
    """α and β of the formula of `method`."""

    method: Method
    alpha: float
    beta: float

    def gold(self, kl: float) -> float:
        """The gold reward, counted from the beginning's, at so many nats."""
        d = math.sqrt(kl)
        if d == 0:
            return 0.0
        return d * (self.alpha - self.beta * (d if self.method == "best_of_n" else math.log(d)))

    @property
    def turn(self) -> float | None:
        """The nats where gold is highest; None where it never turns."""
        if self.beta <= 0:
            return None
        d = self.alpha / (2 * self.beta) if self.method == "best_of_n" else math.exp(self.alpha / self.beta - 1)
        return d * d if d > 0 else 0.0


def best_of_n_kl(n: int) -> float:
    """Nats between best-of-n and drawing once. ValueError for n below 1.

    >>> round(best_of_n_kl(4), 3)
    0.636
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    return math.log(n) - (n - 1) / n


def best_of_n(proxy: npt.ArrayLike, gold: npt.ArrayLike, counts: Sequence[int]) -> list[Point]:
    """proxy and gold (P, N), the rewards of N answers to each of P prompts -> a point for each n of `counts`.

    Of answers sorted by proxy, that of rank i (from 1) is the best of n drawn without replacement with probability
    C(i - 1, n - 1) / C(N, n); its mean over all draws is exact. ValueError for an n beyond N.
    """
    p, g = (np.asarray(values, np.float64) for values in (proxy, gold))
    if p.shape != g.shape or p.ndim != 2:
        raise ValueError(f"expected proxy and gold of one shape (P, N), got {p.shape} and {g.shape}")
    order = np.argsort(p, axis=1, kind="stable")
    ranked_proxy, ranked_gold = (np.take_along_axis(values, order, 1).mean(0) for values in (p, g))  # (N,)
    return [
        Point(kl=best_of_n_kl(n), proxy=float(w @ ranked_proxy), gold=float(w @ ranked_gold), label=f"n = {n}")
        for n in counts
        if (w := _rank_weights(p.shape[1], n)) is not None
    ]


def _rank_weights(answers: int, n: int) -> npt.NDArray[np.float64]:
    if not 1 <= n <= answers:
        raise ValueError(f"the best of {n} cannot be told from {answers} answers a prompt: draw more, or lower n")
    return np.array([math.comb(i, n - 1) / math.comb(answers, n) for i in range(answers)])


def turn(points: Sequence[Point], noise: float = 0.0) -> Turn | None:
    """Where gold is highest, in order of KL; None where the last point's is no more than `noise` below that."""
    ordered = sorted(points, key=lambda point: point.kl)
    best = max(ordered, key=lambda point: point.gold, default=None)
    if best is None or best.gold - ordered[-1].gold <= noise:
        return None
    last = ordered[-1]
    return Turn(kl=best.kl, gold=best.gold, lost=best.gold - last.gold, proxy_rise=last.proxy - best.proxy)


def summary(points: Sequence[Point], method: Method, *, noise: float = 0.0) -> dict[str, Any]:
    """As evals.json holds it and the report draws it: the points, their turn, and the fit where there are enough points
    and one of them is the beginning (KL 0). `noise` as in `turn`.
    """
    start = next((point.gold for point in points if point.kl == 0), None)
    enough = sum(point.kl > 0 for point in points) > 1
    turned = turn(points, noise)
    return {
        "method": method,
        "points": [asdict(point) for point in points],
        "turn": None if turned is None else asdict(turned),
        "fit": asdict(fit(points, method, start=start)) if enough and start is not None else None,
    }


def noise_of(points: Sequence[Point], answers: int) -> float:
    """Two standard errors of the difference of two gold means over so many answers, where rewards are from 0 to 1 and
    so have a variance of g (1 - g) at most.

    >>> noise_of([Point(kl=0.0, proxy=0.5, gold=0.5)], 200)
    0.1
    """
    best = max(point.gold for point in points)
    return 2 * math.sqrt(2 * best * (1 - best) / answers)


def fit(points: Sequence[Point], method: Method, *, start: float) -> Fit:
    """Least squares of α and β over points with KL above 0; `start` is gold where KL is 0. ValueError for fewer than
    two.
    """
    used = [point for point in points if point.kl > 0]
    if len(used) < 2:
        raise ValueError(f"two numbers need two points with KL above 0, got {len(used)}")
    d = np.sqrt([point.kl for point in used])
    columns = np.stack([d, -d * (d if method == "best_of_n" else np.log(d))], axis=1)
    alpha, beta = np.linalg.lstsq(columns, np.array([point.gold - start for point in used]), rcond=None)[0]
    return Fit(method=method, alpha=float(alpha), beta=float(beta))
