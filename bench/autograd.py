"""Training steps of the mini-GPT: ours, torch eager and the limit, from one run.

    python bench/autograd.py [--threads 1] [--rounds 20] [--width 128] [--layers 4] [--context 128] [--batch 8]

Both train the same weights on the same bytes with AdamW in float32. torch has the model as its users write it: its
own modules, fused attention, fused AdamW. The limit is the time that the matrix products of a step alone would take at
the rate of torch's largest ones. Candidates take turns in each round; figures are medians over rounds.
"""

import argparse
import pydoc_data.topics

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from steps import Step, median_seconds
from vesalius.core.hardware import hardware_line, measure_rates
from vesalius.foundations.autograd.mini_gpt import MiniGPT, MiniGPTConfig, draw_batches, train
from vesalius.foundations.autograd.optim import AdamW


class TorchBlock(nn.Module):
    def __init__(self, config: MiniGPTConfig) -> None:
        super().__init__()
        D = config.hidden_size
        self.heads = config.num_attention_heads
        self.norm1, self.norm2 = nn.LayerNorm(D), nn.LayerNorm(D)
        self.qkv, self.out = nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.up, self.down = nn.Linear(D, 4 * D), nn.Linear(4 * D, D)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, T, D = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, T, D)
        x = x + self.out(mixed)
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class TorchGPT(nn.Module):
    def __init__(self, config: MiniGPTConfig) -> None:
        super().__init__()
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.blocks = nn.ModuleList(TorchBlock(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.norm(x) @ self.embed.weight.T


def ours(config: MiniGPTConfig, batch: tuple[np.ndarray, np.ndarray]) -> Step:
    model = MiniGPT(config, np.random.default_rng(0))
    optimizer = AdamW(model.parameters())
    return lambda: next(train(model, optimizer, iter([batch]), steps=1))


def eager(config: MiniGPTConfig, batch: tuple[np.ndarray, np.ndarray]) -> Step:
    model = TorchGPT(config)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    inputs, targets = (torch.from_numpy(ids.astype(np.int64)) for ids in batch)

    def step() -> None:
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def product_operations(config: MiniGPTConfig, batch: int, context: int) -> float:
    """Of a step: two for each weight and token forward, four backward; half of attention's square is causal."""
    D, tokens = config.hidden_size, batch * context
    weights = config.num_hidden_layers * 12 * D * D + config.vocab_size * D
    return 6.0 * tokens * (weights + config.num_hidden_layers * context * D)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of torch; NumPy's are set by OPENBLAS_NUM_THREADS")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = MiniGPTConfig(
        hidden_size=options.width, num_hidden_layers=options.layers, max_position_embeddings=options.context
    )
    ids = np.frombuffer("".join(pydoc_data.topics.topics.values()).encode(), np.uint8)
    batch = next(draw_batches(ids, options.batch, options.context, np.random.default_rng(1)))
    limit = product_operations(config, options.batch, options.context) / measure_rates().float32
    mine, theirs = median_seconds({"ours": ours(config, batch), "eager": eager(config, batch)}, options.rounds).values()
    print(hardware_line())
    print(
        f"width {options.width}, {options.layers} layers, {options.batch} × {options.context} tokens, "
        f"{options.threads} thread(s): ours {mine * 1e3:.1f} ms   torch eager {theirs * 1e3:.1f} ms   "
        f"limit {limit * 1e3:.1f} ms   {theirs / mine:.2f} × torch eager"
    )


if __name__ == "__main__":
    main()
