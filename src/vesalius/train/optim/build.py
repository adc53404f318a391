"""The optimizer that a config names, with its parameter groups."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from vesalius.train.config import TrainConfig
from vesalius.train.optim.adam import Adam
from vesalius.train.optim.combined import Combined
from vesalius.train.optim.groups import parameter_groups
from vesalius.train.optim.lion import Lion
from vesalius.train.optim.muon import Muon
from vesalius.train.optim.sgd import SGD
from vesalius.train.precision import bfloat16_is_fast

Groups = list[dict[str, Any]]


def build_optimizer(model: nn.Module, config: TrainConfig) -> Optimizer:
    """The optimizer named by `config.optimizer` over the trainable parameters of `model`, wherever these are."""
    groups = parameter_groups(
        model,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        embedding_learning_rate=config.embedding_learning_rate,
        embedding_weight_decay=config.embedding_weight_decay,
    )
    return OPTIMIZERS[config.optimizer](groups, config)


def _adamw(groups: Groups, config: TrainConfig) -> Optimizer:
    return torch.optim.AdamW(groups, betas=config.betas or (0.9, 0.95), eps=config.eps, fused=True)


def _adam(groups: Groups, config: TrainConfig) -> Optimizer:
    return Adam(groups, betas=config.betas or (0.9, 0.95), eps=config.eps)


def _lion(groups: Groups, config: TrainConfig) -> Optimizer:
    return Lion(groups, betas=config.betas or (0.9, 0.99))


def _sgd(groups: Groups, config: TrainConfig) -> Optimizer:
    return SGD(groups, momentum=config.momentum)


def _muon(groups: Groups, config: TrainConfig) -> Optimizer:
    matrices = [group for group in groups if group["role"] == "matrix"]
    others = [group for group in groups if group["role"] != "matrix"]
    members: list[Optimizer] = []
    if matrices:
        device = matrices[0]["params"][0][1].device
        dtype: Literal["float32", "bfloat16"] = "bfloat16" if bfloat16_is_fast(device.type) else "float32"
        members.append(
            Muon(
                matrices, momentum=config.momentum, scale=config.muon_scale, ns_steps=config.muon_steps, ns_dtype=dtype
            )
        )
    return Combined([*members, _adamw(others, config)] if others else members)


OPTIMIZERS: dict[str, Callable[[Groups, TrainConfig], Optimizer]] = {
    "muon": _muon,
    "adamw": _adamw,
    "adam": _adam,
    "sgd": _sgd,
    "lion": _lion,
}
