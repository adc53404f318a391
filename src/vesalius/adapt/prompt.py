"""Prompt tuning: learned embeddings in front of every text. Lester et al. 2021, arXiv:2104.08691, section 2.

They start as those of tokens drawn from the vocabulary (section 3.2). Left out: the reparametrisation by an MLP, which
is P-tuning.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vesalius.adapt.virtual_tokens import VirtualTokens, add_virtual, next_id
from vesalius.core.errors import UserError
from vesalius.models.transformer import Transformer


@dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """How many tokens. UserError for none."""

    num_virtual_tokens: int = 20

    def __post_init__(self) -> None:
        check_count(self.num_virtual_tokens)


class Prompt(VirtualTokens):
    """Learned embeddings (P, D)."""

    def __init__(self, first: int, embedding: Tensor) -> None:
        super().__init__()
        self.first, self.count = first, len(embedding)
        self.embedding = nn.Parameter(embedding.detach().clone())

    def embeddings(self) -> Tensor:
        return self.embedding

    def keys_values(self, layer: int) -> None:
        return None


def add_prompt(model: Transformer, config: PromptConfig, name: str = "default", *, seed: int = 0) -> None:
    """Puts learned embeddings in front of every text, in place, and freezes the rest. UserError where the name is
    taken."""
    drawn = drawn_tokens(model, config.num_virtual_tokens, seed)
    with torch.no_grad():
        embedding = model.model.embed_tokens(drawn).float()
    add_virtual(model, name, Prompt(next_id(model), embedding))


def drawn_tokens(model: Transformer, count: int, seed: int) -> Tensor:
    """(P,) ids of the vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    return torch.randint(model.config.vocab_size, (count,), generator=generator).to(device)


def check_count(count: int) -> None:
    """UserError for fewer than one token."""
    if count < 1:
        raise UserError(f"num_virtual_tokens = {count}, expected a number from 1")
