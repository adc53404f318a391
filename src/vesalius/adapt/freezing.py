"""Tuning a part of the model itself: parameters that patterns name stay as they are, all others learn.

Whole tuning freezes nothing. Freezing the lower layers keeps what they extract (Howard & Ruder 2018, arXiv:1801.06146,
section 3.3), and gradients end at the lowest layer that learns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from vesalius.core.errors import UserError, nearest


@dataclass(frozen=True, kw_only=True)
class FreezeConfig:
    """The first `layers` layers, the embedding before them included, and what else the patterns name.

    A pattern is the end of a parameter's or a module's dotted name, in which * stands for anything.
    """

    layers: int = 0
    patterns: tuple[str, ...] = ()


def freeze(model: nn.Module, config: FreezeConfig) -> None:
    """Freezes what the config names, in place. UserError where a pattern matches nothing, or nothing is left to learn;
    the model is untouched then."""
    lower = [f"layers.{i}" for i in range(config.layers)]
    patterns = [*(["embed_tokens"] if lower else []), *lower, *config.patterns]
    names = [name for name, _ in model.named_parameters()]
    chosen = {name for pattern in patterns for name in _matching(pattern, names)}
    if len(chosen) == len(names):
        raise UserError(f"all {len(names)} parameters would be frozen: freeze fewer layers, or use an adapter")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in chosen)


def _matching(pattern: str, names: Sequence[str]) -> list[str]:
    ends = (pattern, f"*.{pattern}", f"{pattern}.*", f"*.{pattern}.*")
    found = [name for name in names if any(fnmatchcase(name, end) for end in ends)]
    if not found:
        parts = {part for name in names for part in name.split(".") if not part.isdigit()}
        raise UserError(f"no parameter of the model is called {pattern!r}, {nearest(pattern, parts)}")
    return found
