"""The reference model: what the policy was before it learned from preferences, and is not to leave too far.

Its log-probabilities are taken while training, from a frozen copy, or all of them once before it, into a file. The file
pays from the second epoch on and needs no second model in memory; it is kept up to date while it grows, so a killed run
goes on where it was, and it is used only for the data, the layout and the weights that it was made with.
"""

import copy
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from vesalius.adapt.switch import disabled, is_adapted
from vesalius.align.rows.answer_rows import Layout
from vesalius.align.rows.answers import AnswerBatch, answer_logprobs
from vesalius.align.rows.items import Items, batch_of, each_once
from vesalius.core.files import atomic_path
from vesalius.models.transformer import Transformer

SAVE_EVERY = 30.0
"""Seconds of work that a kill may cost."""

AT_ONCE = 256
"""Items that are packed and read before the file may be written."""


class Reference(Protocol):
    """log ρ (A,) of a batch's answers, without gradient; `model` is the policy as it is now."""

    def __call__(self, model: Transformer, batch: AnswerBatch) -> Tensor: ...


def reference_of(model: Transformer) -> Reference:
    """The model as it is now: without its adapters where they have learned nothing yet, else a copy."""
    return AdaptersOff() if is_adapted(model) and adapters_change_nothing(model) else FrozenCopy(model)


@torch.no_grad()
def adapters_change_nothing(model: Transformer) -> bool:
    """Whether the model is its base still: told by the hidden states of a few tokens, which must be the same bit for
    bit."""
    tokens = torch.arange(8, device=next(model.parameters()).device).unsqueeze(0) % model.config.vocab_size
    training = model.training
    model.eval()
    with disabled(model):
        base = model.model(tokens)
    found = model.model(tokens)
    model.train(training)
    return torch.equal(base, found)


class AdaptersOff:
    """The policy without its adapters, so no second model in memory."""

    @torch.compiler.disable  # it changes the model
    @torch.no_grad()
    def __call__(self, model: Transformer, batch: AnswerBatch) -> Tensor:
        training = model.training
        model.eval()
        try:
            with disabled(model):
                return answer_logprobs(model, batch).sums
        finally:
            model.train(training)


class FrozenCopy:
    """A second model with the weights that the first one has now."""

    def __init__(self, model: Transformer) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, model: Transformer, batch: AnswerBatch) -> Tensor:
        return answer_logprobs(self.model, batch).sums


def precompute(
    model: Transformer,
    items: Items,
    path: Path,
    layout: Layout,
    *,
    dtype: torch.dtype | None,
    on_progress: Callable[[int], None],
) -> Tensor:
    """(N, answers) float32: what the model gives to the answers of every item, from `path` as far as it has them.

    `dtype` is that of autocast, None for none. `on_progress` is told how many items are done.
    """
    identity = _identity(model, items, f"{layout}|{dtype}")
    table = _read(path, identity)
    table = torch.empty(0, items.answers) if table is None else table
    saved = time.monotonic()
    while len(table) < len(items):
        numbers = range(len(table), min(len(table) + AT_ONCE, len(items)))
        table = torch.cat((table, logprobs_of(model, items, numbers, layout, dtype)))
        on_progress(len(table))
        if len(table) == len(items) or time.monotonic() - saved > SAVE_EVERY:
            with atomic_path(path) as scratch:
                save_file({"logprobs": table}, scratch, {"identity": identity})
            saved = time.monotonic()
    return table


@torch.inference_mode()
def logprobs_of(model: Transformer, items: Items, numbers: range, layout: Layout, dtype: torch.dtype | None) -> Tensor:
    """(numbers, answers) float32 of these items, in evaluation mode."""
    model.eval()
    device, found = next(model.parameters()).device, torch.empty(len(numbers), items.answers)
    for rows in each_once(items, numbers, layout):
        batch, done = batch_of(items, rows, layout).to(device), [number for row in rows for number in row]
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            sums = answer_logprobs(model, batch).sums
        found[torch.tensor(done) - numbers.start] = sums.view(-1, items.answers).cpu()
    return found


def _identity(model: Transformer, items: Items, settings: str) -> str:
    """Of the data, the settings and every weight."""
    return f"{items.spans.fingerprint(settings)}-{weights_fingerprint(model)}"


def weights_fingerprint(model: Transformer) -> str:
    """Tells these weights, in whatever format they are, apart from all others."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _read(path: Path, identity: str) -> Tensor | None:
    """(n, answers) of the first n items, None where the file is missing or was made of something else."""
    if path.exists():
        with safetensors.safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("identity") == identity:
                return file.get_tensor("logprobs")
    return None
