"""What the recipes that teach reach, over several seeds: each recipe run anew, what it measured before and after.

    python bench/teaching.py lora|dpo|grpo|ppo [--seeds 0 1 2] [--out runs/teaching] [--set key=value …]

Runs are those of `vesalius run RECIPE`, one after the other, with the seed in the tuning stage and in its adapter; one
that is finished in the folder already is read and not run again, one that was stopped goes on. The figures are the
run's own (evals.json): means over seeds, and each of them.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean
from typing import Any

STAGES = {"lora": "sft", "dpo": "dpo", "grpo": "grpo", "ppo": "ppo"}
MEASURES: dict[str, dict[str, tuple[str, ...]]] = {
    "lora": {
        "perplexity of held-out answers": ("answers", "WHEN", "perplexity"),
        "ROUGE-L of written answers": ("answers", "WHEN", "written", "rouge_l"),
    },
    "dpo": {
        "held-out accuracy": ("dpo", "WHEN", "accuracy"),
        "KL to the reference, nats": ("dpo", "kl", "kl"),
    },
} | {
    name: {
        "verified reward of drawn answers": (name, "WHEN", "sampled_reward"),
        "of the likeliest": (name, "WHEN", "reward"),
    }
    for name in ("grpo", "ppo")
}


def run(recipe: str, seed: int, folder: Path, settings: list[str]) -> dict[str, Any]:
    """The evals.json of a finished run."""
    changes = [f"{STAGES[recipe]}.seed={seed}", f"adapter.seed={seed}", *settings]
    command = [sys.executable, "-m", "vesalius.cli", "run", recipe, "--out", str(folder)]
    resume = ["--resume"] if (folder / "recipe.toml").exists() else []
    subprocess.run([*command, *resume, *(word for change in changes for word in ("--set", change))], check=True)
    return json.loads((folder / "evals.json").read_text())


def found(evals: dict[str, Any], path: tuple[str, ...], when: str) -> float | None:
    """The number at a path; None where the run has none."""
    value: Any = evals
    for key in path:
        value = value.get(when if key == "WHEN" else key) if isinstance(value, dict) else None
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=MEASURES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/teaching"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    made = [run(options.recipe, seed, options.out / f"{options.recipe}-{seed}", options.set) for seed in options.seeds]
    print(made[0]["hardware"])
    for name, path in MEASURES[options.recipe].items():
        for when in ("before", "after") if "WHEN" in path else ("after",):
            values = [value for evals in made if (value := found(evals, path, when)) is not None]
            if values:
                each = ", ".join(f"{value:.4g}" for value in values)
                print(f"{name:34s} {when:6s}  {mean(values):8.4g}   ({each})")


if __name__ == "__main__":
    main()
