"""One training step of a 5.8M-parameter Llama: ours, transformers, and the machine's limit, from one run.

    python bench/train.py [--rounds 7] [--rows 16] [--no-compile]         needs the extra `dev` (transformers)

16 rows of 256 tokens, AdamW, clipping at 1, the same shape and batch for all. The candidates take turns within each
round, so that a machine whose speed drifts treats them alike; figures are medians over rounds. Compile time is told
apart. GFLOP/s count 6 · parameters · tokens; the limit is the matrix-product rate measured in the same run.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import vesalius
from vesalius.core.hardware import hardware_line, measure_rates
from vesalius.core.run_directory import RunDirectory
from vesalius.data.batch import Batch
from vesalius.data.documents import read_documents
from vesalius.data.loader import PackedLoader
from vesalius.data.shard_writing import write_shards
from vesalius.data.shards import TokenShards
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.bpe_training import train_bpe
from vesalius.tokenizers.tokenizer import Tokenizer
from vesalius.train.objectives import NextToken

SHAPE = {
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}
Step = Callable[[], None]


def ours(tokens: torch.Tensor, *, compiled: bool, dtype: torch.dtype) -> tuple[Step, int]:
    """The package's model and objective; next-token targets, as the peer makes them from its labels."""
    model = Transformer(ModelConfig(**SHAPE))
    targets = torch.cat((tokens[:, 1:], torch.full_like(tokens[:, :1], -100)), dim=1)
    batch, objective = Batch(tokens=tokens, targets=targets), NextToken()
    loss_of = torch.compile(objective, dynamic=False) if compiled else objective
    return with_optimizer(model, lambda: loss_of(model, batch)[0], dtype), parameters(model)


def transformers(tokens: torch.Tensor, *, compiled: bool, dtype: torch.dtype) -> tuple[Step, int]:
    """The peer: LlamaForCausalLM computing its own loss."""
    model = LlamaForCausalLM(LlamaConfig(**SHAPE))

    def loss() -> torch.Tensor:
        return model(tokens, labels=tokens).loss

    return with_optimizer(model, torch.compile(loss) if compiled else loss, dtype), parameters(model)


def with_optimizer(model: torch.nn.Module, loss_of: Callable[[], torch.Tensor], dtype: torch.dtype) -> Step:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = loss_of()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def seconds(step: Step) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def overhead(rows: int, repeats: int = 200) -> tuple[float, float]:
    """Seconds of a batch from the loader, and of writing a step's record, both as in a run."""
    with tempfile.TemporaryDirectory() as scratch:
        files = [str(Path(vesalius.__file__).parent / "**" / "*.py")]
        tokenizer = Tokenizer.from_bpe(train_bpe((d.text for d in read_documents(files)), 1000))
        write_shards(read_documents(files), tokenizer, Path(scratch) / "data", validation_fraction=0.1)
        loader = PackedLoader(TokenShards(Path(scratch) / "data", "train"), batch_rows=rows, context=256, seed=0)
        run = RunDirectory.create(Path(scratch) / "run")
        record = {"kind": "step", "stage": "train", "step": 1, "loss": 3.25, "lr": 1e-3, "grad_norm": 0.5, "mfu": 0.4}
        load = [seconds(lambda: next(loader)) for _ in range(repeats)]
        log = [seconds(lambda: run.log(**record)) for _ in range(repeats)]
    return statistics.median(load), statistics.median(log)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--no-compile", action="store_true", help="only eager candidates, which need no compiler")
    options = parser.parse_args()
    tokens = torch.randint(0, SHAPE["vocab_size"], (options.rows, 256), generator=torch.Generator().manual_seed(0))

    limits = measure_rates()
    print(hardware_line())
    print(f"limit: float32 product {limits.float32 / 1e9:.0f}, bfloat16 product {limits.bfloat16 / 1e9:.0f} GFLOP/s")
    steps, size = {}, 0
    for dtype in (torch.float32, torch.bfloat16):
        for compiled in (False,) if options.no_compile else (False, True):
            for build in (ours, transformers):
                torch._dynamo.reset()
                mode = "compiled" if compiled else "eager"
                name = f"{build.__name__:12s} {str(dtype).removeprefix('torch.'):8s} {mode}"
                steps[name], size = build(tokens, compiled=compiled, dtype=dtype)
                print(f"  first step of {name:32s} {seconds(steps[name]):6.1f} s" + " with compiling" * compiled)
    taken = {name: [] for name in steps}
    for _ in range(options.rounds):
        for name, step in steps.items():
            taken[name].append(seconds(step))
    peer = statistics.median(taken.get("transformers float32  compiled") or taken["transformers float32  eager"])
    for name, times in taken.items():
        median = statistics.median(times)
        flops = 6 * size * tokens.numel() / median
        print(
            f"{name:32s} {tokens.numel() / median:7.0f} tok/s  {flops / 1e9:5.0f} GFLOP/s = "
            f"{flops / limits.float32:4.0%} of the float32 limit  {peer / median:5.2f} x the float32 peer"
        )
    load, log = overhead(options.rows)
    step = statistics.median(taken["ours         bfloat16 eager"])
    share = (load + log) / step
    print(f"loader {load * 1e3:.2f} ms and record {log * 1e3:.2f} ms = {share:.2%} of our fastest eager step")


if __name__ == "__main__":
    main()
