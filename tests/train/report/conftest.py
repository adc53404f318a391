"""Run directories as a real run leaves them: finished, interrupted, and with almost nothing in them."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vesalius.core.run_directory import RunDirectory
from vesalius.train.report import write_report

HOSTILE = "<script>alert('got in')</script>\" onmouseover=\"alert(1)"

RECIPE = f"""\
# {HOSTILE}
[data]
text = ["corpus:python"]
validation_fraction = 0.02

[tokenizer]
vocab_size = 8192

[model]
depth = 8

[train]
minutes = 5.0
seed = 0
learning_rate = 0.002
batch_tokens = 16384
context = 512
precision = "float32"

[sft]
steps = 120
learning_rate = 0.0002
"""

PARTS: dict[str, Any] = {
    "hardware": "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz, 2 threads, 8 GiB (avx2 avx512f avx512_vnni amx_bf16), "
    "Python 3.11.2, torch 2.13.0",
    "rates": {"float32": 1.93e11, "bfloat16": 8.1e11, "read": 1.42e10},
    "model": {
        "config": {"vocab_size": 8192, "hidden_size": 256, "num_hidden_layers": 8, "num_attention_heads": 8},
        "parameters": {"embedding": 2_097_152, "attention": 1_572_864, "mlp": 4_718_592, "norm": 4_352, "head": 0},
        "flops": {
            "embedding": 0, "attention": 3_145_728, "mlp": 9_437_184, "norm": 34_816, "head": 4_194_304,
            "attention_scores": 2_097_152,
        },
        "bytes": {
            "weights": 33_571_840, "gradients": 33_571_840, "optimizer": 67_143_680, "activations": 412_876_800,
            "kv_cache": 4_194_304,
        },
    },
    "corpus": {
        "documents": 8_412, "bytes": 19_241_884, "tokens": 5_102_377, "validation_documents": 171,
        "validation_bytes": 402_118, "validation_tokens": 106_611,
    },
}  # fmt: skip

MEASURED: dict[str, Any] = {
    "seconds": {"tokenizer": 14.2, "encode": 6.1, "train": 300.4, "sft": 41.7, "eval": 29.3},
    "bits_per_byte": {
        "model": 1.423, "after_sft": 1.518, "kneser_ney": 1.844, "xz": 1.712, "gzip": 2.287, "uniform": 8.0,
    },
    "docstring_choice": {
        "seen": {"accuracy": 0.718, "n": 500, "standard_error": 0.0201},
        "unseen": {"accuracy": 0.594, "n": 320, "standard_error": 0.0275},
        "chance": 0.25,
    },
}  # fmt: skip

FUNCTION = (
    '    """Return the number of items in the path.\n\n    If *strict* is true, raise OSError.\n    """\n'
    "    path = os.fspath(path)\n    parts = path.split(os.sep)\n"
    "\tif not parts:\n        return 0\n    return len(parts)\n"
)
ANSWER = (
    "`os.path.join(path, *paths)` joins one or more path components. If a component is an absolute path, all the "
    "components before it are thrown away, and joining goes on from there.\n\nIt returns the new path as a string: "
    "naïve cafés 🦴 and all."
)


def step_records(
    stage: str, steps: int, *, start: float, floor: float, rate: float, seed: int
) -> Iterator[dict[str, Any]]:
    """Loss falling as a power of the step, a rate that warms up, stays and decays, and noise, as of a small model."""
    noise = np.random.default_rng(seed)
    for step in range(1, steps + 1):
        warm, left = min(1.0, step / (0.04 * steps)), min(1.0, (steps - step) / (0.3 * steps))
        clean = floor + (start - floor) * (1 + 60 * step / steps) ** -0.75 - 0.25 * (1 - left)
        spike = 6.0 if step == int(0.42 * steps) else 0.0
        yield {
            "kind": "step", "stage": stage, "step": step, "tokens": step * 16_384,
            "loss": clean + noise.normal(0, 0.09) + spike, "lr": rate * warm * max(left, 0.02),
            "grad_norm": 0.5 + 3 * math.exp(-40 * step / steps) + noise.gamma(2, 0.06) + 2 * spike,
            "tok_per_s": 21_400 + noise.normal(0, 500) - 6_000 * (abs(step - 0.7 * steps) < 4),
            "mfu": 0.634 + noise.normal(0, 0.01), "seconds": 0.76 * step,
        }  # fmt: skip


def write_stage(run: RunDirectory, stage: str, steps: int, *, total: int | None = None, **curve: Any) -> None:
    """`steps` of the `total` steps of a stage, with a validation every tenth of it."""
    total = total or steps
    lines = [record for record in step_records(stage, total, **curve) if record["step"] <= steps]
    for record in lines:
        run.log(**record)
        if record["step"] % max(1, total // 12) == 0:
            recent = [earlier["loss"] for earlier in lines[max(0, record["step"] - 20) : record["step"]]]
            loss = 0.06 + float(np.median(recent))
            run.log(
                kind="validation", stage=stage, step=record["step"], tokens=record["tokens"], loss=loss,
                bits_per_byte=loss / 3.77 / math.log(2),
            )  # fmt: skip


def tokens(text: str, seed: int) -> list[dict[str, Any]]:
    """Pieces of a few characters with probabilities like a trained model's: mostly sure, sometimes not at all."""
    noise, pieces, start = np.random.default_rng(seed), [], 0
    while start < len(text):
        stop = start + int(noise.integers(1, 7))
        while stop < len(text) and text[stop - 1] != " " and text[stop].isalpha() and stop - start < 7:
            stop += 1
        pieces.append({"text": text[start:stop], "probability": float(noise.beta(0.9, 0.45))})
        start = stop
    return pieces


@pytest.fixture(scope="session")
def full_run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return make_full_run(tmp_path_factory.mktemp("full") / "quickstart")


@pytest.fixture(scope="session")
def full_page(full_run: RunDirectory) -> Path:
    return write_report(full_run)


@pytest.fixture(scope="session")
def interrupted_page(interrupted_run: RunDirectory) -> Path:
    return write_report(interrupted_run)


@pytest.fixture(scope="session")
def tiny_page(tiny_run: RunDirectory) -> Path:
    return write_report(tiny_run)


@pytest.fixture(scope="session")
def interrupted_run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return make_interrupted_run(tmp_path_factory.mktemp("interrupted") / "quickstart")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return make_tiny_run(tmp_path_factory.mktemp("tiny") / "tiny")


def make_full_run(root: Path, steps: int = 900) -> RunDirectory:
    """A finished quickstart with a skipped step and a rollback on the way."""
    run = RunDirectory.create(root)
    run.recipe.write_text(RECIPE, "utf-8")
    write_stage(run, "train", steps, start=9.01, floor=3.1, rate=2e-3, seed=0)
    run.log(
        kind="guard", stage="train", step=int(0.42 * steps), event="skip", layer="model.layers.5.mlp.down_proj",
        reason="loss 9.62 is 21 robust deviations above the median of the last 64 steps",
        batch="zipfile.py, tarfile.py and 14 more", lr_scale=1.0,
    )  # fmt: skip
    run.log(
        kind="guard", stage="train", step=int(0.7 * steps), event="rollback",
        reason=f"gradient not finite {HOSTILE}", layer="lm_head", batch="unicodedata tables", lr_scale=0.5,
    )  # fmt: skip
    write_stage(run, "sft", 120, start=3.4, floor=1.9, rate=2e-4, seed=1)
    samples = [
        {"stage": "train", "prompt": "def count_parts(path, *, strict=False):\n", "tokens": tokens(FUNCTION, 2),
         "finish_reason": "length"},
        {"stage": "sft", "prompt": "What does `os.path.join` do?", "tokens": tokens(ANSWER, 3),
         "finish_reason": "stop"},
        {"stage": "sft", "prompt": f"Say {HOSTILE}", "finish_reason": "stop",
         "tokens": [{"text": HOSTILE, "probability": 0.004}, {"text": "&amp; done", "probability": 0.9}]},
    ]  # fmt: skip
    run.add_evals(**PARTS, **MEASURED, samples=samples, finished=True)
    return run


def make_interrupted_run(root: Path) -> RunDirectory:
    """Stopped at step 412 of pretraining: no evaluation, no tuning, a last line cut off."""
    run = RunDirectory.create(root)
    run.recipe.write_text(RECIPE, "utf-8")
    write_stage(run, "train", 412, total=900, start=9.01, floor=3.1, rate=2e-3, seed=0)
    run.add_evals(**PARTS, seconds={"tokenizer": 14.2, "encode": 6.1}, finished=False)
    with run.metrics.open("a") as file:
        file.write('{"kind": "step", "stage": "tra')
    return run


def make_tiny_run(root: Path) -> RunDirectory:
    """Three steps, one of them without a usable loss, and neither recipe nor evaluation."""
    run = RunDirectory.create(root)
    for step, loss in enumerate([9.0, float("nan"), 8.7], start=1):
        run.log(kind="step", stage="train", step=step, tokens=step * 512, loss=loss, lr=1e-4 * step, grad_norm=2.0)
    return run
