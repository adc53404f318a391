"""Tiny models with adapters of every kind that change them, for tests of what adapters do."""

from dataclasses import replace

import torch
from engine_models import tiny_model
from torch import Tensor, nn

from vesalius.adapt.bottleneck import BottleneckConfig, add_bottleneck
from vesalius.adapt.ia3 import IA3Config, add_ia3
from vesalius.adapt.lora import LoraConfig, add_lora
from vesalius.adapt.prefix import PrefixConfig, add_prefix
from vesalius.adapt.prompt import PromptConfig, add_prompt
from vesalius.adapt.switch import holders
from vesalius.models.transformer import Transformer

TOKENS = torch.arange(48).view(2, 24)

LORAS = {
    "lora": LoraConfig(lora_r=4),
    "rslora": LoraConfig(lora_r=4, lora_alpha=8, use_rslora=True),
    "dora": LoraConfig(lora_r=4, use_dora=True),
}
KINDS = {
    "lora": lambda model, name, seed: add_lora(model, LORAS["lora"], name, seed=seed),
    "rslora": lambda model, name, seed: add_lora(model, LORAS["rslora"], name, seed=seed),
    "dora": lambda model, name, seed: add_lora(model, LORAS["dora"], name, seed=seed),
    "ia3": lambda model, name, seed: add_ia3(model, IA3Config(), name),
    "bottleneck": lambda model, name, seed: add_bottleneck(model, BottleneckConfig(bottleneck_size=8), name, seed=seed),
    "prompt": lambda model, name, seed: add_prompt(model, PromptConfig(num_virtual_tokens=3), name, seed=seed),
    "prefix": lambda model, name, seed: add_prefix(model, PrefixConfig(num_virtual_tokens=3), name, seed=seed),
}
LOW_RANK = ("lora", "rslora", "dora")
AROUND_LINEARS = (*LOW_RANK, "ia3", "bottleneck")
LINEAR_MAPS = (*LOW_RANK, "ia3")


def adapted(*names: str, kind: str = "lora", model: str = "grouped", **changes: float) -> Transformer:
    """A tiny model with an adapter of each name, the last in use; `changes` are of its config."""
    made = Transformer(replace(tiny_model(model).config, **changes)).eval() if changes else tiny_model(model)
    for seed, name in enumerate(names):
        KINDS[kind](made, name, seed)
        stir(made, name, seed)
    return made.eval()


def stir(model: nn.Module, name: str, seed: int = 0) -> None:
    """Gives the adapter's parameters other numbers than those it starts with."""
    generator = torch.Generator().manual_seed(seed + 7)
    with torch.no_grad():
        for holder in holders(model).values():
            if name in holder.adapters:
                for parameter in holder.adapters[name].parameters():
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)


def logits(model: nn.Module, tokens: Tensor = TOKENS) -> Tensor:
    with torch.no_grad():
        return model(tokens)


def hidden(model: Transformer, tokens: Tensor = TOKENS, positions: Tensor | None = None) -> Tensor:
    """The last hidden states: normed, so that their rounding is of size 1, whatever the size of the logits."""
    with torch.no_grad():
        return model.model(tokens, positions)
