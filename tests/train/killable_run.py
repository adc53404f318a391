"""A program for test_resume.py: trains in children that are killed, then in one that may finish.

    python killable_run.py WORKDIR BUDGET KILL_AFTER_STEPS …

Children are forked before torch has started any thread, so torch is imported once. Data come through shards, the packed
loader and prefetch, as in real runs.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch._dynamo  # noqa: F401  the first optimizer imports it: better once than in every child

from vesalius.core.run_directory import RunDirectory
from vesalius.data.document import Document
from vesalius.data.loader import PackedLoader
from vesalius.data.prefetch import Prefetch
from vesalius.data.shard_writing import write_shards
from vesalius.data.shards import TokenShards
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer
from vesalius.train.callbacks import RunLogger
from vesalius.train.checkpoints import Checkpoints
from vesalius.train.config import TrainConfig
from vesalius.train.loop import fit
from vesalius.train.objectives import NextToken
from vesalius.train.optim.build import build_optimizer
from vesalius.train.schedules import build_schedule

CONTEXT, ROWS, STEPS = 32, 4, 40
BUDGETS = {"steps": {"steps": STEPS}, "tokens": {"tokens": STEPS * ROWS * CONTEXT}}


class Bytes:
    """A tokenizer whose tokens are bytes, and 256 the boundary."""

    document_boundary, vocab_size, fingerprint = 256, 257, "bytes"

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [list(text.encode()) for text in texts]


def train(work: Path, budget: str) -> None:
    config = TrainConfig(
        **BUDGETS[budget], optimizer="muon", micro_batch_rows=3, precision="float32", warmup=0.1, learning_rate=5e-3
    )
    model = Transformer(
        ModelConfig(vocab_size=257, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, dropout=0.1)
    )
    shards = TokenShards(work / "data", "train")
    run = RunDirectory.create(work / "run", resume=True)
    with Prefetch(PackedLoader(shards, batch_rows=ROWS, context=CONTEXT, seed=0)) as batches:
        fit(
            model,
            batches,
            NextToken(),
            build_optimizer(model, config),
            build_schedule(config),
            [RunLogger(run, "pretrain"), Checkpoints(run.checkpoints, every=0.0)],
            config=config,
        )


def write_text(work: Path) -> None:
    text = " ".join(f"the number {i} times {i} is {i * i}." for i in range(300))
    documents = [Document(text=text[i : i + 200], name=f"{i}", split_key=f"{i}") for i in range(0, len(text), 200)]
    write_shards(documents, Bytes(), work / "data", validation_fraction=0.1)


def in_a_child(work: Callable[..., None], *arguments: Any) -> int:
    child = os.fork()
    if child == 0:
        work(*arguments)
        os._exit(0)
    return child


def wait_for(child: int) -> None:
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit("a child failed")


def kill_after(child: int, metrics: Path, lines: int) -> None:
    """Sends SIGKILL once metrics.jsonl has so many lines, a moment later each time: anywhere inside a step."""
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= lines):
        time.sleep(0.001)
    time.sleep(0.002 * (lines % 7))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def main(work: Path, budget: str, kills: list[int]) -> None:
    wait_for(in_a_child(write_text, work))
    for lines in kills:
        kill_after(in_a_child(train, work, budget), work / "run" / "metrics.jsonl", lines)
    wait_for(in_a_child(train, work, budget))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], [int(word) for word in sys.argv[3:]])
