"""The training stages: pretraining on text, tuning on conversations. Both are the one loop with other batches."""

import contextlib
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import nn

from vesalius.align.sft.neftune import Noisy
from vesalius.core.errors import Interrupted, UserError
from vesalius.core.recipes import dump_recipe
from vesalius.data.batch import Batch
from vesalius.data.loader import PackedLoader
from vesalius.data.prefetch import Prefetch
from vesalius.data.shards import TokenShards
from vesalius.evals.bits_per_byte import bits_per_byte
from vesalius.hub.directory import save_model
from vesalius.models.counts import count_flops
from vesalius.models.transformer import Transformer
from vesalius.pipeline.conversations import (
    QUICK_VALIDATION_TOKENS,
    encode_training,
    packed,
    quick_batches,
    replayed,
    split_conversations,
)
from vesalius.pipeline.life import Life
from vesalius.train.anchor import Anchored
from vesalius.train.callbacks import ExpertLoad, RunLogger, Throughput, Validation
from vesalius.train.checkpoints import Checkpoints
from vesalius.train.config import TrainConfig
from vesalius.train.linter import EndOfTurnLinter
from vesalius.train.loop import fit
from vesalius.train.objectives import NextToken, Objective
from vesalius.train.optim.build import build_optimizer
from vesalius.train.precision import Precision
from vesalius.train.recompute import recomputed
from vesalius.train.schedules import build_schedule
from vesalius.train.training import BatchSource, Callback, TrainingBatch

Measure = Callable[[nn.Module], Mapping[str, float]]


def pretrain(life: Life) -> None:
    """Next-token training on the text, if the recipe has [train]."""
    config, (model, tokenizer) = life.recipe.train, life.made
    if config is None:
        return
    train, validation = (TokenShards(life.run.data, side, tokenizer) for side in ("train", "validation"))
    loader = PackedLoader(train, batch_rows=config.batch_rows, context=config.context, seed=config.seed)
    dtype = autocast_of(life, config)

    def quick(model: nn.Module) -> Mapping[str, float]:
        limit = QUICK_VALIDATION_TOKENS
        return bits_per_byte(model, validation, context=config.context, max_tokens=limit, dtype=dtype)

    with Prefetch(loader) as batches:
        _train(life, "train", config, batches, quick)
    if "model" not in life.results("bits_per_byte"):
        with life.timed("eval"), life.display.stage("measuring bits per byte"):
            whole = bits_per_byte(model.eval(), validation, context=config.context, dtype=dtype)
        life.add("bits_per_byte", model=whole["bits_per_byte"])


def tune(life: Life) -> None:
    """Instruction tuning on conversations, if the recipe has [sft]; those about validation modules are held out."""
    config, (_, tokenizer) = life.recipe.sft, life.made
    if config is None:
        return
    train, held_out = split_conversations(life)
    encoded = encode_training(life, "sft", config, train)
    dtype, fixed = autocast_of(life, config), quick_batches(life, config, held_out)

    def measure(model: nn.Module) -> Mapping[str, float]:
        return {"loss": mean_loss(model, fixed, dtype)} if fixed else {}

    batches = replayed(life, config, encoded) if config.replay else packed(life, config, encoded)
    _train(life, "sft", config, batches, measure, noise=config.neftune_alpha)
    if life.recipe.train is not None and "after_sft" not in life.results("bits_per_byte"):
        with life.timed("eval"), life.display.stage("measuring bits per byte"):
            shards = TokenShards(life.run.data, "validation", tokenizer)
            whole = bits_per_byte(life.made[0].eval(), shards, context=config.context, dtype=dtype)
        life.add("bits_per_byte", after_sft=whole["bits_per_byte"])


def mean_loss(model: nn.Module, batches: Iterable[Batch], autocast: torch.dtype | None = None) -> float:
    """Nats for each target over all batches."""
    return mean_metrics(model, NextToken(), batches, autocast)["loss"]


@torch.inference_mode()
def mean_metrics(
    model: nn.Module, objective: Objective, batches: Iterable[TrainingBatch], autocast: torch.dtype | None = None
) -> dict[str, float]:
    """ "loss" and the metrics of an objective over all batches, each by its weight; {} where there is no batch."""
    totals: dict[str, float] = {}
    weight, device = 0, next(model.parameters()).device
    for batch in batches:
        with torch.autocast(device.type, autocast, enabled=autocast is not None):
            loss, metrics = objective(model, batch.to(device))
        weight += batch.weight
        for name, value in {"loss": loss, **metrics}.items():
            totals[name] = totals.get(name, 0.0) + value.item() * batch.weight
    return {name: total / weight for name, total in totals.items()}


def _train(
    life: Life, stage: str, config: TrainConfig, batches: BatchSource, measure: Measure, *, noise: float = 0.0
) -> None:
    """Trains the model on the next token, with that much NEFTune noise, and saves it."""
    model, tokenizer = life.made
    objective: Objective = NextToken(config.label_smoothing, config.z_loss, config.moe_balance, config.moe_z)
    objective = Noisy(objective, noise) if noise else objective
    watchers: list[Callback] = [Validation(config.validate_every, measure), throughput(life, model, config)]
    watchers += [ExpertLoad()] if model.config.mixture else []
    train_module(life, stage, config, model, batches, objective, watchers)
    save_model(life.run.model, model.eval(), tokenizer)


def train_module(
    life: Life,
    stage: str,
    config: TrainConfig,
    module: nn.Module,
    batches: BatchSource,
    objective: Objective,
    watchers: Iterable[Callback],
) -> None:
    """Runs the loop over `module`, the model or what belongs to it, with everything that a run directory records.
    Interrupted where a person stopped it.
    """
    model, tokenizer = life.made
    _check_context(model, config, stage)
    callbacks = [
        Checkpoints(
            life.run.checkpoints / stage,
            keep=config.keep_checkpoints,
            every=config.checkpoint_every,
            identity={**model.config.to_dict(), "tokenizer": tokenizer.fingerprint},
            recipe=dump_recipe(life.recipe),
        ),
        EndOfTurnLinter(tokenizer.eos_ids),
        *watchers,
        RunLogger(life.run, stage),
        life.display.training(stage),
    ]
    if config.anchor:
        objective = Anchored.at(module, objective, config.anchor)
    optimizer, schedule = build_optimizer(module, config), build_schedule(config)
    with life.timed(stage), recomputed(module) if config.recompute else contextlib.nullcontext():
        result = fit(module, batches, objective, optimizer, schedule, callbacks, config=config)
    if result.stopped == "interrupted":
        raise Interrupted(f"stopped in {stage} after step {result.step}; everything is kept")


def throughput(life: Life, model: Transformer, config: TrainConfig) -> Callback:
    """MFU against the rate that this machine reached in the precision of the training."""
    peak = life.rates.float32 if autocast_of(life, config) is None else life.rates.bfloat16
    return Throughput(3 * count_flops(model.config, config.context).total, peak)


def autocast_of(life: Life, config: TrainConfig) -> torch.dtype | None:
    """What the training's precision lets autocast compute in; None for float32."""
    precision = Precision.choose(config.precision, life.device)
    return None if precision.name == "float32" else precision.dtype


def _check_context(model: Transformer, config: TrainConfig, stage: str) -> None:
    limit = model.config.max_position_embeddings
    if config.context > limit:
        raise UserError(f"{stage}.context is {config.context}, but the model reads at most {limit} tokens: lower it")
