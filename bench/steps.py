"""What benches of training steps share: SmolLM2-135M's shape, one optimizer's step, and candidates that take turns."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch

SHAPE = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
RANK, ALPHA = 16, 32.0

Step = Callable[[], None]


def with_optimizer(
    model: torch.nn.Module, loss_of: Callable[[], torch.Tensor], dtype: torch.dtype = torch.float32
) -> Step:
    """A step of AdamW, clipped at 1, on what the model trains; with bfloat16 its loss is taken in autocast."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = loss_of()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def median_seconds(steps: Mapping[str, Step], rounds: int) -> dict[str, float]:
    """Of each candidate. They take turns in each round, so that a machine whose speed drifts treats them alike; the
    round before the first waits for memory and does not count."""
    taken = [{name: _seconds(step) for name, step in steps.items()} for _ in range(rounds + 1)][1:]
    return {name: statistics.median(times[name] for times in taken) for name in steps}


def _seconds(step: Step) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start
