"""Many requests at once on this CPU: ours and OpenVINO's continuous batching, from one run on the same GGUF.

    python bench/engine.py [MODEL.gguf] [--peers PYTHON] [--rounds 3] [--threads N]

Requests of 81 tokens are all there at the beginning and write 64 each; candidates take turns, each in a process of its
own. Then, ours alone: what the engine adds to the bare model's step, and how soon a second request with the same
1,000-token beginning has its first token, which is still in memory or, for want of room, in a file by then. Keys and
values are int8, as `vesalius serve` and the peer keep them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import torch

from vesalius.core.hardware import hardware_line
from vesalius.hub.open import model_path
from vesalius.infer.engine import Engine, EngineOptions
from vesalius.infer.language_model import LanguageModel
from vesalius.infer.params import SamplingParams

PEER = Path(__file__).parent / "peers" / "openvino_many.py"
TEXT = "Number {}. The history of science is the study of science and knowledge, natural and social. "
REQUESTS, NEW_TOKENS, REPEATS = (1, 4, 16, 32), 64, 3
OPTIONS = EngineOptions(cache_dtype="int8", prefix_caching=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("--peers", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--ours", action="store_true", help="measure ours once and print JSON")
    options = parser.parse_args()
    path = str(model_path(options.model))
    if options.ours:
        print(json.dumps(ours(LanguageModel.load(path))))
        return
    found = defaultdict(list)
    for _ in range(options.rounds):
        for name, command in commands(path, options.peers, options.threads).items():
            for key, value in run(command, options.threads).items():
                found[name, key].append(value)
    print(hardware_line())
    show({key: statistics.median(values) for key, values in found.items()})


def commands(path: str, peers: str, threads: int) -> dict[str, list[str]]:
    """What measures each candidate."""
    return {
        "ours": [sys.executable, __file__, path, "--ours"],
        "OpenVINO": [peers, str(PEER), path, str(threads)],
    }


def run(command: list[str], threads: int) -> dict[str, float]:
    """What a process prints as JSON in the end; nothing, and a line of why, where it fails."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        print(f"{command[0]} {Path(command[1]).name}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
        return {}
    return json.loads(done.stdout.strip().splitlines()[-1])


def ours(lm: LanguageModel) -> dict[str, float]:
    """All figures of this process."""
    rate(lm, 2)  # warms up
    rates = {str(count): statistics.median(rate(lm, count) for _ in range(REPEATS)) for count in REQUESTS}
    bare, whole = step_seconds(lm, 16)
    return rates | {"bare step": bare, "engine step": whole} | first_token_seconds(lm, 1000)


def rate(lm: LanguageModel, count: int) -> float:
    """Output tokens/s of so many requests."""
    engine = Engine(lm.model, options=OPTIONS)
    for i in range(count):
        engine.add(lm.prompt_ids(TEXT.format(i) * 4), SamplingParams(max_tokens=NEW_TOKENS))
    start = time.perf_counter()
    while engine.has_work:
        engine.step()
    return count * NEW_TOKENS / (time.perf_counter() - start)


def step_seconds(lm: LanguageModel, count: int) -> tuple[float, float]:
    """One token for each of `count` sequences: the model's pass and head alone, and the engine's whole step."""
    engine = Engine(lm.model, options=OPTIONS)
    for i in range(count):
        engine.add(lm.prompt_ids(TEXT.format(i) * 4), SamplingParams(max_tokens=128))
    while engine.stats.generated_tokens < 2 * count:
        engine.step()
    bare: list[float] = []
    model = lm.model.model.forward
    head = lm.model.logits

    def timed(function):
        def call(*arguments):
            start = time.perf_counter()
            result = function(*arguments)
            bare[-1] += time.perf_counter() - start
            return result

        return call

    whole = []
    lm.model.model.forward, lm.model.logits = timed(model), timed(head)  # type: ignore[method-assign]
    try:
        for _ in range(50):
            bare.append(0.0)
            start = time.perf_counter()
            engine.step()
            whole.append(time.perf_counter() - start)
    finally:
        lm.model.model.forward, lm.model.logits = model, head  # type: ignore[method-assign]
    return statistics.median(bare), statistics.median(whole)


def first_token_seconds(lm: LanguageModel, length: int) -> dict[str, float]:
    """Of a prompt that is new, and of others with the same beginning, whose blocks are in memory and in a file."""
    generator = torch.Generator().manual_seed(0)
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(5):
        engine = Engine(lm.model, options=EngineOptions(cache_dtype="int8", cold_bytes=1 << 27))
        prefix = torch.randint(1000, 40_000, (length,), generator=generator).tolist()
        for name, end in (("computed", [5, 6, 7]), ("in memory", [8, 9]), ("in a file", [10])):
            if name == "in a file":
                engine.blocks.release([engine.blocks.allocate() for _ in range(engine.blocks.available)])
            sequence = engine.add(prefix + end, SamplingParams(max_tokens=1))[0]
            start = time.perf_counter()
            engine.run(sequence)
            times[name].append(time.perf_counter() - start)
        assert engine.stats.cold_tokens == length // engine.options.block_size * engine.options.block_size
    return {f"prefix, {name}": statistics.median(values) for name, values in times.items()}


def show(found: dict[tuple[str, str], float]) -> None:
    """A line a kind of work."""
    print(f"\n{'requests of 64 tokens':24s} {'ours, tok/s':>12s} {'OpenVINO':>10s} {'ratio':>6s}")
    for count in map(str, REQUESTS):
        mine, peer = found.get(("ours", count), 0.0), found.get(("OpenVINO", count))
        print(f"{count:24s} {mine:12.1f} {f'{peer:10.1f} {mine / peer:6.2f}' if peer else '   missing'}")
    bare, whole = found["ours", "bare step"], found["ours", "engine step"]
    print(f"\nstep of 16: model and head {bare * 1e3:.2f} ms, engine {whole * 1e3:.2f} ms: {whole / bare - 1:+.1%}")
    computed, memory, file = (found["ours", f"prefix, {where}"] for where in ("computed", "in memory", "in a file"))
    print(f"first token behind 1,000, computed: {computed:.3f} s; again, by where the beginning is then:")
    print(f"memory {memory:.4f} s, {memory / computed:.3f} x; a file {file:.4f} s, {file / computed:.3f} x")


if __name__ == "__main__":
    main()
