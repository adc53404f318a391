"""A sequence as proposers see it, without an engine."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from vesalius.infer.params import SamplingParams


@dataclass(eq=False)
class Text:
    prompt: list[int]
    ids: list[int] = field(default_factory=list)
    params: SamplingParams = field(default_factory=SamplingParams)
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))
    hidden: Tensor | None = None
