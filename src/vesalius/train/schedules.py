"""How the learning rate follows the budget: pure functions of progress, 0 at the start of the budget and 1 at its end.

A shape is what happens after the warmup; `build_schedule` puts a linear warmup before it and a floor under it. Because
a schedule sees progress and not steps, the same curve fits a budget in steps, tokens or minutes.

Cosine: Loshchilov & Hutter 2017, arXiv:1608.03983. WSD (warmup, stable, decay): Hu et al. 2024, arXiv:2404.06395; its
1-sqrt decay: Hägele et al. 2024, arXiv:2405.18392, section 3. Inverse square root: Vaswani et al. 2017,
arXiv:1706.03762, section 5.3.
"""

import math
from collections.abc import Callable

from vesalius.train.config import TrainConfig

Schedule = Callable[[float], float]
"""progress in [0, 1] -> what the learning rate is multiplied by."""


def build_schedule(config: TrainConfig) -> Schedule:
    """The schedule that a config names."""
    warmup = config.warmup_fraction
    shapes: dict[str, Schedule] = {
        "constant": lambda _: 1.0,
        "linear": lambda progress: 1 - _after(warmup, progress),
        "cosine": lambda progress: cosine(_after(warmup, progress)),
        "wsd": lambda progress: DECAYS[config.decay_shape](_after(1 - config.decay_fraction, progress)),
        "inverse_sqrt": lambda progress: math.sqrt(warmup / max(warmup, progress)),
    }
    return warmed(shapes[config.schedule], warmup, config.final_fraction)


def warmed(shape: Schedule, warmup: float, final_fraction: float = 0.0) -> Schedule:
    """`shape` from the end of the warmup on, squeezed into [final_fraction, 1]; before, a straight line from 0 to 1."""

    def schedule(progress: float) -> float:
        if progress < warmup:
            return progress / warmup
        return final_fraction + (1 - final_fraction) * shape(min(progress, 1.0))

    return schedule


def cosine(x: float) -> float:
    """Half a cosine wave from 1 at 0 to 0 at 1.

    >>> [round(cosine(x), 3) for x in (0, 0.5, 1)]
    [1.0, 0.5, 0.0]
    """
    return 0.5 * (1 + math.cos(math.pi * x))


DECAYS: dict[str, Schedule] = {"linear": lambda x: 1 - x, "1-sqrt": lambda x: 1 - math.sqrt(x)}


def _after(start: float, progress: float) -> float:
    """How far progress is between `start` and the end: 0 up to `start`, 1 at the end."""
    return max(0.0, progress - start) / (1 - start) if start < 1 else 0.0
