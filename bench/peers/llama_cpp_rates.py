"""llama.cpp on a GGUF file, as JSON: tokens per second by the names of bench/inference.py.

python bench/peers/llama_cpp_rates.py MODEL.gguf THREADS          needs: llama-cpp-python, built for this CPU
"""

import json
import random
import statistics
import sys
import time

from llama_cpp import Llama

REPEATS = 5


def main() -> None:
    path, threads = sys.argv[1], int(sys.argv[2])
    model = Llama(path, n_ctx=1024, n_threads=threads, n_threads_batch=threads, n_batch=512, verbose=False)
    ids = [random.Random(0).randrange(1000, 40_000) for _ in range(512)]

    def prompt(count: int) -> float:
        model.reset()
        start = time.perf_counter()
        model.eval(ids[:count])
        return count / (time.perf_counter() - start)

    def decode(context: int, count: int = 64) -> float:
        model.reset()
        model.eval(ids[:context])
        start = time.perf_counter()
        for token in ids[:count]:
            model.eval([token])
        return count / (time.perf_counter() - start)

    prompt(64)
    work = {"prompt of 512": lambda: prompt(512), "prompt of 100": lambda: prompt(100)}
    work |= {"64 tokens behind 16": lambda: decode(16), "64 tokens behind 448": lambda: decode(448)}
    print(json.dumps({name: statistics.median(run() for _ in range(REPEATS)) for name, run in work.items()}))


if __name__ == "__main__":
    main()
