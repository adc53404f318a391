"""Adapters as PEFT writes them, put into a model: settings of adapter_config.json, and tensors by layer and part.

Layers are called as the published model calls them. Where that fuses some of ours (Phi-3's qkv_proj), the change is cut
into theirs: they share A, and each has its rows of B. Every setting that would make the adapter compute something else
than it does here is refused.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vesalius.adapt.bottleneck import Bottleneck
from vesalius.adapt.dora import Dora
from vesalius.adapt.ia3 import IA3
from vesalius.adapt.low_rank import LowRank
from vesalius.adapt.prefix import Prefix, check_heads
from vesalius.adapt.prompt import Prompt
from vesalius.adapt.switch import add
from vesalius.adapt.targets import LinearLayer, linear_layers
from vesalius.adapt.virtual_tokens import add_virtual, next_id
from vesalius.core.errors import UserError, nearest
from vesalius.models.families import family_of, write_config
from vesalius.models.layers import ACTIVATIONS
from vesalius.models.transformer import Transformer

Settings = Mapping[str, Any]
Tensors = dict[str, Tensor]
Layers = dict[str, Tensors]
"""Layer -> part of its adapter -> tensor."""

EMBEDDINGS = "prompt_embeddings"
MAGNITUDE = "lora_magnitude_vector"

CHANGES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Ways to begin a LoRA after which the base is another model than the published one."""

UNKNOWN_HERE = (
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "modules_to_save",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
)
"""Settings that change what an adapter computes, in ways that this package has not."""


def read_lora(model: Transformer, name: str, settings: Settings, layers: Layers) -> None:
    """LoRA, rsLoRA and DoRA, with ranks and alphas of their own where the settings name some."""
    begun = str(settings.get("init_lora_weights"))
    if begun.startswith(CHANGES_THE_BASE):
        raise UserError(f"it began by {begun}, which changes the base model: convert it to a plain LoRA with PEFT")
    layers, dora = _ours(layers, model), bool(settings.get("use_dora"))
    parts = {"lora_A.weight", "lora_B.weight"} | ({MAGNITUDE} if dora else set())

    def make(path: str, base: LinearLayer) -> LowRank:
        given = _exactly(path, layers[path], parts)
        first, second = given["lora_A.weight"], given["lora_B.weight"]
        rank = len(first)
        _check_shape(path, first, (rank, base.in_features))
        _check_shape(path, second, (base.out_features, rank))
        scale = _alpha(settings, path) / (rank**0.5 if settings.get("use_rslora") else rank)
        dropout = float(settings.get("lora_dropout") or 0.0)
        if not dora:
            return LowRank.of(base, first, second, scale=scale, dropout=dropout)
        made = Dora.of(base, first, second, scale=scale, dropout=dropout)
        _fill(path, made.lora_magnitude_vector, given[MAGNITUDE])
        return made

    add(model, name, list(layers), make)


def read_ia3(model: Transformer, name: str, settings: Settings, layers: Layers) -> None:
    """(IA)³: a row scales the input of a layer, a column its output."""
    layers = _ours(layers, model)

    def make(path: str, base: LinearLayer) -> IA3:
        vector = _exactly(path, layers[path], {"ia3_l"})["ia3_l"]
        made = IA3(base, scales_input=_is_one_of(path, settings.get("feedforward_modules") or ()))
        size = len(made.ia3_l)
        _check_shape(path, vector, (1, size) if made.scales_input else (size, 1))
        _fill(path, made.ia3_l, vector.flatten())
        return made

    add(model, name, list(layers), make)


def read_bottleneck(model: Transformer, name: str, settings: Settings, layers: Layers) -> None:
    """Our own."""
    act = settings.get("hidden_act")
    if act not in ACTIVATIONS:
        raise UserError(f"hidden_act is {act!r}, expected one of {', '.join(ACTIVATIONS)}")

    def make(path: str, base: LinearLayer) -> Bottleneck:
        given = _exactly(path, layers[path], {f"{part}.{end}" for part in ("down", "up") for end in ("weight", "bias")})
        size = len(given["down.bias"])
        made = Bottleneck(base, size=size, hidden_act=str(act), generator=torch.Generator())
        for part, parameter in made.named_parameters():
            _fill(path, parameter, given[part])
        return made

    add(model, name, list(_ours(layers, model)), make)


def read_prompt(model: Transformer, name: str, settings: Settings, layers: Layers) -> None:
    """Embeddings in front of the text."""
    embedding = _only_embeddings(layers)
    _check_shape(EMBEDDINGS, embedding, (int(settings["num_virtual_tokens"]), model.config.hidden_size))
    add_virtual(model, name, Prompt(next_id(model), embedding.float()))


def read_prefix(model: Transformer, name: str, settings: Settings, layers: Layers) -> None:
    """Keys and values in front of the text."""
    check_heads(model.config)
    embedding, c = _only_embeddings(layers), model.config
    width = c.num_hidden_layers * 2 * c.num_key_value_heads * c.head_dim
    _check_shape(EMBEDDINGS, embedding, (int(settings["num_virtual_tokens"]), width))
    add_virtual(model, name, Prefix(next_id(model), embedding.float(), c))


def _ours(layers: Layers, model: Transformer) -> Layers:
    """The layers under our names. UserError where the model has no such layer."""
    known = linear_layers(model)
    found: Layers = {}
    for name, parts in layers.items():
        if name in known:
            found[name] = parts
        else:
            found |= _cut(name, parts, model, known)
    if not found:
        raise UserError("it has no tensors: the file is incomplete")
    return found


def _cut(name: str, parts: Tensors, model: Transformer, known: Collection[str]) -> Layers:
    """A layer of the published model as those of ours that are its rows."""
    if parts.keys() == {"lora_A.weight", "lora_B.weight"}:
        names = family_of(write_config(model.config)).weights
        first, second = parts["lora_A.weight"], parts["lora_B.weight"]
        for oriented in (second, second.mT):  # GPT-2 keeps its matrices as (in, out)
            try:
                rows = names.to_ours({f"{name}.weight": oriented}, model.config)
            except UserError:
                continue
            ours = {theirs.removesuffix(".weight"): part for theirs, part in rows.items()}
            if ours.keys() <= set(known) and all(part.shape[-1] == len(first) for part in ours.values()):
                return {layer: {"lora_A.weight": first, "lora_B.weight": part} for layer, part in ours.items()}
    raise UserError(f"it changes {name!r:.120}, {nearest(name, known)}: it belongs to another model")


def _alpha(settings: Settings, layer: str) -> float:
    """PEFT's patterns are regular expressions for the end of a name."""
    for pattern, alpha in (settings.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", layer):
            return float(alpha)
    return float(settings["lora_alpha"])


def _is_one_of(layer: str, names: str | Sequence[str]) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, layer) is not None
    return any(layer == name or layer.endswith(f".{name}") for name in names)


def _exactly(layer: str, given: Tensors, parts: set[str]) -> Tensors:
    """UserError where a part is missing or unknown."""
    if given.keys() != parts:
        raise UserError(f"{layer} has {', '.join(sorted(given)) or 'nothing'}, expected {', '.join(sorted(parts))}")
    return given


def _only_embeddings(layers: Layers) -> Tensor:
    given = _exactly("the file", layers.get("", {}), {EMBEDDINGS})
    if others := [name for name in layers if name]:
        raise UserError(f"it has tensors of {others[0]} too, expected {EMBEDDINGS} alone")
    return given[EMBEDDINGS]


def _check_shape(where: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape or not tensor.is_floating_point():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise UserError(f"{where}: {kind} {tuple(tensor.shape)}, expected floats {shape}: it belongs to another model")


def _fill(where: str, parameter: Tensor, values: Tensor) -> None:
    _check_shape(where, values, tuple(parameter.shape))
    with torch.no_grad():
        parameter.copy_(values)


READERS: dict[str, Callable[[Transformer, str, Settings, Layers], None]] = {
    "LORA": read_lora,
    "IA3": read_ia3,
    "BOTTLENECK": read_bottleneck,
    "PROMPT_TUNING": read_prompt,
    "PREFIX_TUNING": read_prefix,
}
"""By peft_type."""
