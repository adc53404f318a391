"""A model in less memory than its weights take: new tokens a second and peak memory, by weight_bytes, and the limit.

    python bench/offload.py [MODEL] [--shares 1 0.75 0.5 0] [--tokens 64] [--rounds 3] [--threads N]

A share is how much of the layers may stay in memory beside the embedding and the head; 0 is the least that opens. Every
row is a process of its own, and rows take turns. A token reads every weight once, those in memory at the rate of memory
and those in files at the rate of copying out of the page cache, which is measured here too: the limit is the time for
both. The disk's own rate is printed beside it: it counts where the files are larger than the memory that is free.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict

import torch

from vesalius.compress.layer_pages import tensors_of
from vesalius.core.errors import UserError
from vesalius.core.files import cache_dir
from vesalius.core.hardware import hardware_line, peak_bytes, read_rate
from vesalius.core.mapping import ask_for, let_go, reserved
from vesalius.evals.speed import weight_bytes
from vesalius.hub.open import open_model
from vesalius.infer.language_model import LanguageModel
from vesalius.infer.options import EngineOptions

PROMPT = "The history of science is the study of science and knowledge, natural and social."
FILE_BYTES = 1 << 28


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("--shares", nargs="+", type=float, default=[1.0, 0.75, 0.5, 0.0])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--limit", type=int, help="measure this weight_bytes here and print JSON; 0: none")
    options = parser.parse_args()
    if options.limit is not None:
        print(json.dumps(measure(options.model, options.limit or None, options.tokens)))
        return
    least, whole = limits(options.model)
    found: dict[float, list[dict[str, float]]] = defaultdict(list)
    for _ in range(options.rounds):
        for share in options.shares:
            limit = 0 if share >= 1 else int(least + share * (whole - least))
            found[share].append(measured_apart(options.model, limit, options.tokens, options.threads))
    memory, cached, disk = read_rate(), *file_rates()
    print(hardware_line())
    print(f"reading: memory {memory / 1e9:.1f} GB/s, page cache {cached / 1e9:.1f} GB/s, disk {disk / 1e9:.2f} GB/s\n")
    print("weight_bytes      in files   tok/s   limit  ratio  opened  peak, MB")
    for rows in found.values():
        row = {name: statistics.median(values[name] for values in rows) for name in rows[0]}
        shown = f"{row['limit'] / 1e6:.1f} MB" if row["limit"] else "none"
        limit = 1 / (row["resident"] / memory + row["in_files"] / cached)
        print(
            f"{shown:>12s} "
            f"{row['in_files'] / 1e6:9.1f} MB {row['rate']:7.1f} {limit:7.1f} {row['rate'] / limit:6.2f} "
            f"{row['opening']:5.2f} s {row['peak'] / 1e6:9.0f}"
        )
    print(f"\nlibraries alone: {statistics.median(row['libraries'] for row in rows) / 1e6:.0f} MB")


def limits(name: str) -> tuple[int, int]:
    """The least weight_bytes that a model opens with, and what all of its weights take."""
    try:
        open_model(name, weight_bytes=1)
    except UserError as error:
        if found := re.search(r"give at least (\d+)", str(error)):
            return int(found[1]), sum(tensor.nbytes for tensor in tensors_of(open_model(name)[0]))
        raise
    raise AssertionError("no model is as small as a byte")


def measure(name: str, limit: int | None, tokens: int) -> dict[str, float]:
    """Everything of one row, in this process."""
    libraries, start = peak_bytes(), time.perf_counter()
    lm = LanguageModel.load(name, EngineOptions(weight_bytes=limit, prefix_caching=False))
    opening = time.perf_counter() - start
    layers = lm.model.model.layers
    sizes = [sum(tensor.nbytes for tensor in tensors_of(layer)) for layer in layers]
    in_files = sum(sizes[i] for i in layers.offloaded) if limit else 0
    rates = []
    for _ in range(4):  # the first one warms up
        stream = lm.stream(PROMPT, max_tokens=tokens)
        next(iter(stream))
        start, before = time.perf_counter(), lm.engine.stats.generated_tokens
        stream.read()
        rates.append((lm.engine.stats.generated_tokens - before) / (time.perf_counter() - start))
    return {
        "limit": limit or 0,
        "resident": weight_bytes(lm.model) - in_files,  # of what a token reads
        "in_files": in_files,
        "rate": statistics.median(rates[1:]),
        "opening": opening,
        "peak": peak_bytes(),
        "libraries": libraries,
    }


def measured_apart(name: str, limit: int, tokens: int, threads: int) -> dict[str, float]:
    """`measure` in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, __file__, name, "--limit", str(limit), "--tokens", str(tokens)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(f"{limit}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def file_rates() -> tuple[float, float]:
    """Bytes/s of touching a mapped file whose pages were let go: from the page cache, and from the disk."""
    with tempfile.TemporaryFile(dir=cache_dir()) as file:
        mapped = torch.frombuffer(reserved(file, FILE_BYTES), dtype=torch.float32)
        mapped.fill_(1)
        os.fsync(file.fileno())
        cached = max(_touched(mapped) for _ in range(5))
        let_go(mapped)
        os.posix_fadvise(file.fileno(), 0, FILE_BYTES, os.POSIX_FADV_DONTNEED)
        return cached, _touched(mapped)


def _touched(mapped: torch.Tensor) -> float:
    let_go(mapped)
    start = time.perf_counter()
    ask_for(mapped)
    torch.dot(mapped, mapped)
    return mapped.nbytes / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
