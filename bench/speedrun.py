"""Time to equal quality: how soon ours reaches the bits per byte of a tuned transformers Llama after 300 seconds.

    python bench/speedrun.py [--peer-minutes 5] [--our-minutes 2.5 1.67] [--work DIR]         needs the extra `dev`

Both sides train on `corpus:python` with the same tokenizer, split and shards, and are measured on the whole validation
split by the same function. The peer is the shape of `transformers_bench.py train` with AdamW and warmup-cosine; its
rate and batch were tuned (bench/SPEEDRUN.md) and its compile time is not counted. Ours is what `vesalius run pretrain`
trains, from its first step to its last, without the validation and checkpoints that a run adds.
"""

import argparse
import math
import tempfile
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from vesalius.core.hardware import hardware_line, measure_rates
from vesalius.data.documents import read_documents
from vesalius.data.loader import PackedLoader
from vesalius.data.prefetch import Prefetch
from vesalius.data.shard_writing import write_shards
from vesalius.data.shards import TokenShards
from vesalius.data.split import split_documents
from vesalius.evals.bits_per_byte import bits_per_byte
from vesalius.models.transformer import Transformer
from vesalius.pipeline.recipe import find_recipe
from vesalius.tokenizers.bpe_training import train_bpe
from vesalius.tokenizers.tokenizer import Tokenizer
from vesalius.train.loop import fit
from vesalius.train.objectives import NextToken
from vesalius.train.optim.build import build_optimizer
from vesalius.train.schedules import build_schedule

CORPUS, FRACTION, CONTEXT = ["corpus:python"], 0.05, 256
PEER_ROWS, PEER_RATE = 8, 1.5e-3
"""The best of the grid in bench/SPEEDRUN.md."""


def prepare(work: Path, vocab_size: int) -> tuple[Tokenizer, TokenShards, TokenShards]:
    if not (work / "shards" / "index.json").exists():
        documents = split_documents(read_documents(CORPUS), FRACTION)
        texts = (document.text for side, document in documents if side == "train")
        Tokenizer.from_bpe(train_bpe(texts, vocab_size)).save(work / "tokenizer")
        tokenizer = Tokenizer.open(work / "tokenizer")
        write_shards(read_documents(CORPUS), tokenizer, work / "shards", validation_fraction=FRACTION, specs=CORPUS)
    tokenizer = Tokenizer.open(work / "tokenizer")
    return (
        tokenizer,
        TokenShards(work / "shards", "train", tokenizer),
        TokenShards(work / "shards", "validation", tokenizer),
    )


class Peer(torch.nn.Module):
    """transformers' model called as this package's is. It attends across documents, as it does by default."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        shape = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 6, "num_attention_heads": 4}
        self.llama = LlamaForCausalLM(
            LlamaConfig(vocab_size=vocab_size, max_position_embeddings=CONTEXT, tie_word_embeddings=True, **shape)
        )

    def forward(self, tokens: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
        return self.llama(tokens).logits


def train_peer(
    train: TokenShards, vocab_size: int, seconds: float, rows: int, rate: float, dtype: torch.dtype | None
) -> tuple[torch.nn.Module, int]:
    """AdamW, 2 % warmup, cosine to a tenth by the clock; the first step, with compiling, is not counted."""
    torch.manual_seed(0)
    model = Peer(vocab_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    batches = PackedLoader(train, batch_rows=rows, context=CONTEXT, seed=0)

    @torch.compile
    def loss_of(tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(model(tokens).float().flatten(0, 1), targets.flatten())

    def step(batch, multiplier: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = rate * multiplier
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            loss = loss_of(batch.tokens, batch.targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step(next(batches), 0.0)
    started, tokens = time.perf_counter(), 0
    while (progress := (time.perf_counter() - started) / seconds) < 1:
        warm = min(1.0, progress / 0.02 + 0.01)
        step(next(batches), warm * (0.55 + 0.45 * math.cos(math.pi * progress)))
        tokens += rows * CONTEXT
    return model, tokens


def train_ours(train: TokenShards, vocab_size: int, minutes: float, changes: list[str]) -> tuple[torch.nn.Module, int]:
    recipe = find_recipe("pretrain", [f"train.minutes={minutes}", *changes])
    config = recipe.train
    model = Transformer(recipe.model.build(vocab_size, config.context), seed=config.seed)
    with Prefetch(PackedLoader(train, batch_rows=config.batch_rows, context=CONTEXT, seed=config.seed)) as batches:
        result = fit(model, batches, NextToken(), build_optimizer(model, config), build_schedule(config), config=config)
    return model, result.tokens


def report(name: str, model: torch.nn.Module, validation: TokenShards, seconds: float, tokens: int) -> float:
    size = sum(p.numel() for p in model.parameters())
    bits = bits_per_byte(model.eval(), validation, context=CONTEXT)["bits_per_byte"]
    print(
        f"{name:34s} {size / 1e6:5.2f}M parameters {seconds:5.0f} s {tokens / seconds:6.0f} tok/s "
        f"{bits:.4f} bits per byte",
        flush=True,
    )
    return bits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-minutes", type=float, default=5.0)
    parser.add_argument("--our-minutes", type=float, nargs="*", default=[2.5, 5 / 3])
    parser.add_argument("--peer-rows", type=int, default=PEER_ROWS)
    parser.add_argument("--peer-rate", type=float, default=PEER_RATE)
    parser.add_argument("--peer-precision", choices=["float32", "bfloat16", "both"], default="float32")
    parser.add_argument("--set", action="append", default=[], dest="changes", help="changes to the pretrain recipe")
    parser.add_argument("--work", type=Path, help="keep tokenizer and shards here")
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="speedrun-"))
    tokenizer, train, validation = prepare(work, 4096)
    rates = measure_rates()
    print(hardware_line())
    print(f"limit: float32 product {rates.float32 / 1e9:.0f}, bfloat16 product {rates.bfloat16 / 1e9:.0f} GFLOP/s")
    print(f"{train.n_tokens} training tokens; {len(validation)} validation documents of {validation.n_bytes} bytes")
    precisions = {"float32": [None], "bfloat16": [torch.bfloat16], "both": [None, torch.bfloat16]}
    for dtype in precisions[options.peer_precision] if options.peer_minutes else []:
        seconds = 60 * options.peer_minutes
        model, tokens = train_peer(train, tokenizer.vocab_size, seconds, options.peer_rows, options.peer_rate, dtype)
        report(f"transformers {'bfloat16' if dtype else 'float32'} compiled", model, validation, seconds, tokens)
    for minutes in options.our_minutes:
        started = time.perf_counter()
        model, tokens = train_ours(train, tokenizer.vocab_size, minutes, options.changes)
        report("ours", model, validation, time.perf_counter() - started, tokens)


if __name__ == "__main__":
    main()
