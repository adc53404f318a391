"""One step of tuning a model of SmolLM2-135M's shape: ours, the peer, and the machine's limit, from one run.

    python bench/tuning.py [--what lora|memory] [--rounds 5] [--rows 4] [--layers 30]      needs the extra `dev`

lora    LoRA of rank 16 on all linear layers, rows of 256 tokens, AdamW and clipping at 1, beside PEFT + transformers as
        they come; on rows whose every token is a target, and on rows where only the second half is, as where a user
        asks and an assistant answers. Candidates take turns in each round, so that a machine whose speed drifts treats
        them alike; figures are medians over rounds. The limit is the time that the step's products take at the rate of
        a large product, measured in the same run.
memory  the most that a process of its own holds, from opening SmolLM2-135M's GGUF file to the third step on the same
        rows: everything trained, LoRA, and QLoRA (NF4), each also with activations recomputed.
"""

import argparse
import contextlib
import json
import subprocess
import sys

import torch

from steps import ALPHA, RANK, SHAPE, Step, median_seconds, with_optimizer
from vesalius.adapt.lora import LoraConfig, add_lora
from vesalius.core.hardware import hardware_line, measure_rates, peak_bytes
from vesalius.data.batch import IGNORE, Batch
from vesalius.models.config import ModelConfig
from vesalius.models.counts import count_flops
from vesalius.models.transformer import Transformer
from vesalius.pipeline.stages import open_packed, open_start
from vesalius.train.objectives import NextToken
from vesalius.train.recompute import recomputed

CONTEXT = 256
TARGETS = {"every token a target": 0.0, "the second half of each row": 0.5}
MIB = 2**20
MODEL = "smollm2-135m-instruct"
KINDS = ("full", "lora", "qlora", "full+recompute", "lora+recompute", "qlora+recompute")


def rows_of_tokens(rows: int, prompt: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and labels (rows, CONTEXT); the labels of the first part of each row are IGNORE."""
    tokens = torch.randint(0, SHAPE["vocab_size"], (rows, CONTEXT), generator=torch.Generator().manual_seed(0))
    labels = tokens.clone()
    labels[:, : int(prompt * CONTEXT)] = IGNORE
    return tokens, labels


def our_batch(rows: int, prompt: float) -> Batch:
    """The same as targets: of the next token, where transformers moves the labels itself."""
    tokens, labels = rows_of_tokens(rows, prompt)
    targets = torch.cat((labels[:, 1:], torch.full_like(labels[:, :1], IGNORE)), dim=1)
    return Batch(tokens=tokens, targets=targets)


def ours(shape: dict, rows: int, prompt: float, dtype: torch.dtype) -> Step:
    """The package's model, LoRA and objective."""
    model = Transformer(ModelConfig(**shape))
    add_lora(model, LoraConfig(lora_r=RANK, lora_alpha=ALPHA))
    return our_step(model, rows, prompt, dtype)


def our_step(model: Transformer, rows: int, prompt: float, dtype: torch.dtype) -> Step:
    """A step of the parameters that are not frozen."""
    batch, objective = our_batch(rows, prompt), NextToken()
    return with_optimizer(model.train(), lambda: objective(model, batch)[0], dtype)


def peft(shape: dict, rows: int, prompt: float, dtype: torch.dtype) -> Step:
    """The peer: LlamaForCausalLM with PEFT's LoRA around it, computing its own loss."""
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    adapter = PeftConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear")
    model = get_peft_model(LlamaForCausalLM(LlamaConfig(**shape)), adapter)
    tokens, labels = rows_of_tokens(rows, prompt)
    return with_optimizer(model.train(), lambda: model(tokens, labels=labels).loss, dtype)


def floor(shape: dict, rows: int, prompt: float) -> float:
    """FLOP of the products of a step: a frozen matrix is multiplied forward and once back, an adapter's and the scores
    of attention forward and twice back; the head only for rows that have a target."""
    config = ModelConfig(**shape)
    parts, tokens = count_flops(config, CONTEXT), rows * CONTEXT
    targets = our_batch(rows, prompt).weight
    head = parts.head * targets / tokens
    scores = parts.attention_scores
    frozen = parts.total - parts.head - scores + head
    model = Transformer(ModelConfig(**shape | {"num_hidden_layers": 1}))
    add_lora(model, LoraConfig(lora_r=RANK))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad) * shape["num_hidden_layers"]
    return tokens * (2 * frozen + 3 * scores + 3 * 2 * trained)


def measure_lora(options: argparse.Namespace) -> None:
    """Both in both precisions, on both kinds of rows."""
    shape, limits = SHAPE | {"num_hidden_layers": options.layers}, measure_rates()
    rates = {torch.float32: limits.float32, torch.bfloat16: limits.bfloat16}
    print(f"limit: float32 product {limits.float32 / 1e9:.0f}, bfloat16 product {limits.bfloat16 / 1e9:.0f} GFLOP/s")
    for what, prompt in TARGETS.items():
        for dtype, rate in rates.items():
            steps = {build.__name__: build(shape, options.rows, prompt, dtype) for build in (ours, peft)}
            medians = median_seconds(steps, options.rounds)
            least = floor(shape, options.rows, prompt) / rate
            print(
                f"{what:28s} {str(dtype).removeprefix('torch.'):8s}  ours {medians['ours']:6.2f} s  "
                f"peft {medians['peft']:6.2f} s  limit {least:6.2f} s   {medians['peft'] / medians['ours']:.2f} x peft"
                f", {least / medians['ours']:.0%} of the limit"
            )


def child(kind: str, options: argparse.Namespace) -> None:
    """Three steps in this process, and the most memory that it held."""
    way, _, recompute = kind.partition("+")
    model, _ = open_packed(MODEL) if way == "qlora" else open_start(MODEL, lambda _: None)
    if way != "full":
        add_lora(model, LoraConfig(lora_r=RANK, lora_alpha=ALPHA))
    step = our_step(model, options.rows, 0.0, torch.float32)
    with recomputed(model) if recompute else contextlib.nullcontext():
        for _ in range(3):
            step()
    print(json.dumps({"peak": peak_bytes()}))


def measure_memory(options: argparse.Namespace) -> None:
    """Each way in a process of its own."""
    full = 0.0
    for kind in KINDS:
        command = [sys.executable, __file__, "--child", kind, "--rows", str(options.rows)]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        peak = json.loads(out.splitlines()[-1])["peak"] / MIB
        full = full or peak
        print(f"{kind:16s} {peak:7.0f} MiB at most   {peak / full:.2f} of full tuning's", flush=True)


WHAT = {"lora": measure_lora, "memory": measure_memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=WHAT, default="lora")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--layers", type=int, default=SHAPE["num_hidden_layers"])
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options)
        return
    print(hardware_line())
    WHAT[options.what](options)


if __name__ == "__main__":
    main()
