"""The stage that trains multi-token heads for a model that stays as it is: heads.safetensors beside it."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import nn

from vesalius.align.heads import MultiToken
from vesalius.data.batch import Batch
from vesalius.data.loader import PackedLoader
from vesalius.data.shards import TokenShards
from vesalius.hub.directory import save_model
from vesalius.hub.unpacking import is_quantised
from vesalius.infer.intake import placement
from vesalius.infer.speculative.heads import FILE, MultiTokenHeads
from vesalius.pipeline.conversations import (
    QUICK_VALIDATION_TOKENS,
    encode_training,
    packed,
    quick_batches,
    split_conversations,
)
from vesalius.pipeline.life import Life
from vesalius.pipeline.recipe import HeadsSection
from vesalius.pipeline.training import train_module
from vesalius.train.callbacks import Validation
from vesalius.train.training import BatchSource


def train_heads(life: Life) -> None:
    """Trains heads on the conversations, or on the text where there are none, if the recipe has [heads].

    The model is saved beside them, but for one of quantised weights, which stays the file that it is.
    """
    section, (model, tokenizer) = life.recipe.heads, life.made
    if section is None or (life.run.model / FILE).exists():
        return
    model.eval().requires_grad_(False)
    heads = MultiTokenHeads(model.config.hidden_size, section.count).to(placement(model)[0])
    batches, held_out = _batches(life, section)
    objective = MultiToken(model)
    watcher = Validation(section.validate_every, _loss_on(held_out, objective))
    train_module(life, "heads", section, heads, batches, objective, [watcher])
    if not is_quantised(model):
        save_model(life.run.model, model, tokenizer)
    heads.save(life.run.model)


def _batches(life: Life, section: HeadsSection) -> tuple[BatchSource, list[Batch]]:
    """What is trained on, and a few batches of what is held out."""
    tokenizer, sizes = life.made[1], {"batch_rows": section.batch_rows, "context": section.context}
    count = max(1, QUICK_VALIDATION_TOKENS // section.batch_tokens)
    if life.recipe.data.conversations:
        train, held_out = split_conversations(life)
        encoded = encode_training(life, "heads", section, train)
        return packed(life, section, encoded), quick_batches(life, section, held_out)
    shards = (TokenShards(life.run.data, side, tokenizer) for side in ("train", "validation"))
    loader, quick_loader = (PackedLoader(side, **sizes, seed=section.seed) for side in shards)
    return loader, _first(quick_loader, count)


def _first(batches: Iterator[Batch] | None, count: int) -> list[Batch]:
    return [next(batches) for _ in range(count)] if batches is not None else []


def _loss_on(batches: list[Batch], objective: MultiToken) -> Callable[[nn.Module], Mapping[str, float]]:
    """The discounted loss, and that of each head, on the same batches each time."""

    @torch.inference_mode()
    def measure(heads: nn.Module) -> Mapping[str, float]:
        totals: dict[str, float] = {}
        targets = sum(batch.weight for batch in batches)
        device = next(heads.parameters()).device
        for batch in batches:
            loss, parts = objective(heads, batch.to(device))
            for name, value in {"loss": loss, **parts}.items():
                totals[name] = totals.get(name, 0.0) + value.item() * batch.weight / targets
        return totals

    return measure
