"""A GGUF model on this CPU: ours, llama.cpp, OpenVINO, and the machine's limit, from one run.

    python bench/inference.py [MODEL.gguf] [--peers PYTHON] [--rounds 3] [--threads N]

The peers live in an environment of their own (--peers names its Python; llama-cpp-python built for this CPU with
CMAKE_ARGS=-DGGML_NATIVE=ON, openvino-genai); one that is missing there is left out and said so. Every candidate runs in
a process of its own, alone, and the candidates take turns within each round, so that a machine whose speed drifts
treats them alike. Figures are medians over rounds of medians of five. "no compiler" is ours without the native library.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from vesalius.core.hardware import hardware_line, measure_rates
from vesalius.hub.open import model_path

PEERS = Path(__file__).parent / "peers"
OURS = ("ours", "ours, no compiler")


def ours(path: str, threads: int, *, native: bool) -> list[dict]:
    """`vesalius bench` in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "VESALIUS_NATIVE": "on" if native else "off"}
    return run([sys.executable, "-m", "vesalius.cli", "bench", path, "--json"], environment)["speed"]


def peer(python: str, script: str, path: str, threads: int) -> dict[str, float]:
    return run([python, str(PEERS / script), path, str(threads)], dict(os.environ))


def run(command: list[str], environment: dict[str, str]) -> dict:
    """What the command's last line says, as JSON."""
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return json.loads(done.stdout[done.stdout.index("{") :])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("--peers", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    path, threads = str(model_path(options.model)), options.threads

    print(hardware_line())
    rates = measure_rates()
    products = f"float32 {rates.float32 / 1e9:.0f}, bfloat16 {rates.bfloat16 / 1e9:.0f} GFLOP/s"
    print(f"limits: {products}, read {rates.read / 1e9:.1f} GB/s")
    scripts = {"llama.cpp": "llama_cpp_rates.py", "OpenVINO": "openvino_rates.py"}
    found, limits = defaultdict(lambda: defaultdict(list)), {}
    for _ in range(options.rounds):
        for name in OURS:
            for row in ours(path, threads, native=name == "ours"):
                found[row["work"]][name].append(row["rate"])
                limits[row["work"]] = row["limit"]
        for name, script in list(scripts.items()):
            try:
                told = peer(options.peers, script, path, threads)
            except RuntimeError as error:
                print(f"{name} is left out: {error}")
                del scripts[name]
                continue
            for work, rate in told.items():
                found[work][name].append(rate)
    for work, by_name in found.items():
        medians = {name: statistics.median(rates) for name, rates in by_name.items()}
        print(f"\n{work} (limit {limits[work]:.0f} tok/s)")
        for name, rate in medians.items():
            ratios = "".join(f"  {medians[name] / medians[p]:5.2f} x {p}" for p in scripts if name in OURS)
            print(f"  {name:18s} {rate:7.1f} tok/s  {rate / limits[work]:4.0%} of the limit{ratios}")


if __name__ == "__main__":
    main()
