"""A small GPT on our own engine, from bytes to a falling loss: nothing in it that is not in this folder.

GPT-2's arrangement (Radford et al. 2019, section 2.3): learned positions, norms before attention and MLP, one more at
the end, GELU, and an output that shares the embedding. Left out: dropout, and the scaled initialisation of what writes
into the residual.

    model = MiniGPT(MiniGPTConfig(), np.random.default_rng(0))
    ids = np.frombuffer(text.encode(), np.uint8)
    losses = list(train(model, AdamW(model.parameters()), draw_batches(ids, 8, 64, np.random.default_rng(1)), steps=50))
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vesalius.foundations.autograd import products
from vesalius.foundations.autograd.elementwise import GELU
from vesalius.foundations.autograd.nn import Embedding, LayerNorm, Linear, Module
from vesalius.foundations.autograd.normalising import cross_entropy, softmax
from vesalius.foundations.autograd.optim import SGD, AdamW
from vesalius.foundations.autograd.tensor import Tensor

Ids = NDArray[np.integer]


@dataclass(frozen=True, kw_only=True)
class MiniGPTConfig:
    """Sizes. ValueError where heads do not divide the width."""

    vocab_size: int = 256  # bytes
    hidden_size: int = 64
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    max_position_embeddings: int = 64

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"{self.num_attention_heads} heads do not divide a hidden_size of {self.hidden_size}")


class Attention(Module):
    """Causal self-attention. x (B, T, D) -> (B, T, D)."""

    def __init__(self, config: MiniGPTConfig, generator: np.random.Generator) -> None:
        D = config.hidden_size
        self.heads = config.num_attention_heads
        self.qkv = Linear(D, 3 * D, generator)
        self.out = Linear(D, D, generator)

    def __call__(self, x: Tensor) -> Tensor:
        B, T, D = x.shape
        E = D // self.heads
        q, k, v = self.qkv(x).reshape(B, T, 3, self.heads, E).transpose(2, 0, 3, 1, 4)  # (B, H, T, E) each
        future = np.triu(np.full((T, T), -np.inf, np.float32), 1)
        scores = (q * (1 / math.sqrt(E))) @ k.swapaxes(-1, -2) + future  # (B, H, T, S)
        mixed = (softmax(scores) @ v).swapaxes(1, 2)  # (B, T, H, E)
        return self.out(mixed.reshape(B, T, D))


class Block(Module):
    """x (B, T, D) -> (B, T, D): attention, then an MLP, each added to what it reads."""

    def __init__(self, config: MiniGPTConfig, generator: np.random.Generator) -> None:
        D = config.hidden_size
        self.norm1 = LayerNorm(D)
        self.attention = Attention(config, generator)
        self.norm2 = LayerNorm(D)
        self.up = Linear(D, 4 * D, generator)
        self.down = Linear(4 * D, D, generator)

    def __call__(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(GELU(self.up(self.norm2(x))))


class MiniGPT(Module):
    """ids (B, T) -> logits (B, T, V)."""

    def __init__(self, config: MiniGPTConfig, generator: np.random.Generator) -> None:
        self.embed = Embedding(config.vocab_size, config.hidden_size, generator)
        self.positions = Embedding(config.max_position_embeddings, config.hidden_size, generator)
        self.blocks = [Block(config, generator) for _ in range(config.num_hidden_layers)]
        self.norm = LayerNorm(config.hidden_size)

    def __call__(self, ids: Ids) -> Tensor:
        x = self.embed(ids) + self.positions(np.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return products.matmul(self.norm(x), self.embed.weight.T)


def draw_batches(ids: Ids, batch_size: int, context: int, generator: np.random.Generator) -> Iterator[tuple[Ids, Ids]]:
    """Without end: inputs (B, T) and targets (B, T), one further on, from random places of `ids` (N,)."""
    if len(ids) <= context:
        raise ValueError(f"a context of {context} needs at least {context + 1} ids, got {len(ids)}")
    while True:
        starts = generator.integers(0, len(ids) - context, batch_size)
        rows = ids[starts[:, None] + np.arange(context + 1)]  # (B, T + 1)
        yield rows[:, :-1], rows[:, 1:]


def train(model: MiniGPT, optimizer: SGD | AdamW, batches: Iterator[tuple[Ids, Ids]], *, steps: int) -> Iterator[float]:
    """One loss in nats a step, each before its update."""
    for _ in range(steps):
        inputs, targets = next(batches)
        loss = cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()
