"""Adapters of a model as PEFT writes them: settings of adapter_config.json, and tensors by layer and part.

PEFT opens them where the published model calls its layers as we do, which Llama's relatives do. Bottleneck adapters are
unknown to PEFT; they are written in the same form.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import Tensor, nn

from vesalius.adapt.bottleneck import Bottleneck
from vesalius.adapt.dora import Dora
from vesalius.adapt.ia3 import IA3
from vesalius.adapt.low_rank import LowRank
from vesalius.adapt.prefix import Prefix
from vesalius.adapt.prompt import Prompt
from vesalius.adapt.targets import linear_layers
from vesalius.adapt.virtual_tokens import VirtualTokens
from vesalius.hub.adapter_reading import EMBEDDINGS, MAGNITUDE
from vesalius.models.layers import ACTIVATIONS
from vesalius.models.transformer import Transformer

Parts = Mapping[str, nn.Module]
"""Layer -> the adapter's part for it."""

Written = tuple[dict[str, Any], dict[str, Tensor]]
"""Settings, and tensors by layer and part."""


def write_lora(model: Transformer, parts: Parts) -> Written:
    """Rank and alpha of most layers, and patterns for the others. rsLoRA's scale is written as the alpha that gives
    it."""
    layers = {path: cast(LowRank, part) for path, part in parts.items()}
    ranks = {path: len(part.lora_A) for path, part in layers.items()}
    alphas = {path: part.scale * ranks[path] for path, part in layers.items()}
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    first = next(iter(layers.values()))
    settings = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": first.dropout.p,
        "use_dora": isinstance(first, Dora),
        "use_rslora": False,
        "bias": "none",
        "rank_pattern": {path: value for path, value in ranks.items() if value != rank},
        "alpha_pattern": {path: value for path, value in alphas.items() if value != alpha},
        "target_modules": _targets(model, parts),
    }
    tensors: dict[str, Tensor] = {}
    for path, part in layers.items():
        tensors |= {f"{path}.lora_A.weight": part.lora_A, f"{path}.lora_B.weight": part.lora_B}
        if isinstance(part, Dora):
            tensors[f"{path}.{MAGNITUDE}"] = part.lora_magnitude_vector
    return settings, tensors


def write_ia3(model: Transformer, parts: Parts) -> Written:
    layers = {path: cast(IA3, part) for path, part in parts.items()}
    inputs = {path: part for path, part in layers.items() if part.scales_input}
    settings = {
        "peft_type": "IA3",
        "target_modules": _targets(model, layers),
        "feedforward_modules": _targets(model, inputs),
    }
    return settings, {
        f"{path}.ia3_l": part.ia3_l.unsqueeze(0 if part.scales_input else 1) for path, part in layers.items()
    }


def write_bottleneck(model: Transformer, parts: Parts) -> Written:
    layers = {path: cast(Bottleneck, part) for path, part in parts.items()}
    act = next(iter(layers.values())).act
    settings = {
        "peft_type": "BOTTLENECK",
        "target_modules": _targets(model, parts),
        "hidden_act": next(name for name, function in ACTIVATIONS.items() if function is act),
    }
    return settings, {
        f"{path}.{name}": tensor for path, part in layers.items() for name, tensor in part.named_parameters()
    }


def write_prompt(model: Transformer, parts: Parts) -> Written:
    (part,), c = parts.values(), model.config
    return _virtual(cast(Prompt, part), "PROMPT_TUNING") | {
        "token_dim": c.hidden_size,
        "num_attention_heads": c.num_attention_heads,
        "num_layers": c.num_hidden_layers,
    }, {EMBEDDINGS: cast(Prompt, part).embedding}


def write_prefix(model: Transformer, parts: Parts) -> Written:
    """PEFT counts the heads that have keys and values of their own."""
    (part,), c = parts.values(), model.config
    return _virtual(cast(Prefix, part), "PREFIX_TUNING") | {
        "token_dim": c.num_key_value_heads * c.head_dim,
        "num_attention_heads": c.num_key_value_heads,
        "num_layers": c.num_hidden_layers,
        "encoder_hidden_size": c.num_key_value_heads * c.head_dim,
        "prefix_projection": False,
    }, {EMBEDDINGS: cast(Prefix, part).embedding}


def _virtual(part: VirtualTokens, kind: str) -> dict[str, Any]:
    return {"peft_type": kind, "num_virtual_tokens": part.count, "num_transformer_submodules": 1}


def _targets(model: Transformer, chosen: Parts) -> list[str]:
    """Last names where all layers of these names are chosen, else whole names."""
    last = {path: path.rpartition(".")[2] for path in linear_layers(model)}
    ends = {last[path] for path in chosen}
    return sorted(ends) if {path for path, end in last.items() if end in ends} == set(chosen) else sorted(chosen)


WRITERS: dict[type[nn.Module], Callable[[Transformer, Parts], Written]] = {
    LowRank: write_lora,
    Dora: write_lora,
    IA3: write_ia3,
    Bottleneck: write_bottleneck,
    Prompt: write_prompt,
    Prefix: write_prefix,
}
"""By the class of the adapter's parts."""
