"""The family `gpt_oss` (OpenAI 2025, arXiv:2508.10925): attention sinks in alternately sliding layers, and experts with
biases and a clamped activation.

Files store experts as (in, out) with gate and up columns alternating. OpenAI's own store them in MXFP4, blocks of 32
four-bit floats that share a power of two (OCP Microscaling Formats 1.0, section 5); they are unpacked on opening.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from vesalius.core.errors import UserError
from vesalius.models.config import ModelConfig
from vesalius.models.config_sections import Mixture
from vesalius.models.families import llama
from vesalius.models.families.mixture_parts import (
    LAYER_MLP,
    capacity_factor,
    number,
    whole,
    written_capacity,
)
from vesalius.models.families.published import FULL, SLIDING, Published, given, layer_types, windows
from vesalius.models.weight_map import Rule, Tensors, WeightMap, renames, transposed

ARCHITECTURE = "GptOssForCausalLM"

DEFAULTS = {
    "max_position_embeddings": 131_072,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 150_000.0,
    "attention_bias": True,
}

YARN = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
"""What a config.json without rotary settings means."""


def read(published: Published) -> ModelConfig:
    """UserError as for Llama, and for a mixture that cannot be."""
    published = llama.without(published, "mlp_bias") | given(published, DEFAULTS)
    if not published.get("rope_parameters") and not published.get("rope_scaling"):
        published["rope_scaling"] = YARN
    if (published.get("quantization_config") or {}).get("quant_method") == "mxfp4":
        del published["quantization_config"]
    config = llama.read(published)
    kinds = published.get("layer_types") or [(SLIDING, FULL)[i % 2] for i in range(config.num_hidden_layers)]
    slides = windows(published.get("sliding_window", 128), kinds)
    mixture = Mixture(
        num_experts=whole(published, "num_local_experts", 128),
        num_experts_per_tok=whole(published, "num_experts_per_tok", 4),
        moe_intermediate_size=whole(published, "intermediate_size"),
        scoring="softmax_topk",
        router_bias=True,
        expert_bias=True,
        swiglu_limit=number(published, "swiglu_limit", 7.0),
        swiglu_alpha=number(published, "swiglu_alpha", 1.702),
        capacity_factor=capacity_factor(published),
    )
    return replace(config, mixture=mixture, attention_sinks=True, **slides)


def write(config: ModelConfig) -> Published | None:
    """None without a mixture. Plain rotary positions must be named: the family's default are scaled ones."""
    if (m := config.mixture) is None:
        return None
    values = llama.without(llama.write_decoder(config, ARCHITECTURE), "mlp_bias")
    if config.rope_scaling is None:
        values["rope_parameters"] = {"rope_type": "default", "rope_theta": config.rope_theta}
    return values | {
        "intermediate_size": m.moe_intermediate_size,
        "num_local_experts": m.num_experts,
        "num_experts_per_tok": m.num_experts_per_tok,
        "swiglu_limit": m.swiglu_limit,
        "swiglu_alpha": m.swiglu_alpha,
        "sliding_window": config.sliding_window or None,
        "layer_types": layer_types(config),
        **written_capacity(m),
    }


FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
"""The sixteen values of E2M1."""


def unpack_mxfp4(blocks: Tensor, scales: Tensor) -> Tensor:
    """blocks (…, G, 16) uint8, two numbers a byte, the low half first, scales (…, G) uint8 -> (…, 32 G) float32.

    A scale s means 2^(s - 127). UserError where the two do not fit together.
    """
    if blocks.dtype != torch.uint8 or blocks.shape != (*scales.shape, 16):
        raise UserError(
            f"MXFP4 blocks are {tuple(blocks.shape)} {blocks.dtype} with scales {tuple(scales.shape)}, "
            "expected bytes, 16 for each scale: fetch the file again"
        )
    numbers = torch.stack((blocks & 15, blocks >> 4), dim=-1).flatten(-2).int()  # (…, G, 32)
    values = torch.tensor(FP4)[numbers]
    return torch.ldexp(values, scales.int().unsqueeze(-1) - 127).flatten(-2)


class GptOssWeights(WeightMap):
    """The rules, behind the unpacking of MXFP4."""

    def to_ours(
        self, published: Mapping[str, Tensor], config: ModelConfig, layers: Iterable[int] | None = None
    ) -> dict[str, Tensor]:
        unpacked = dict(published)
        for name in [name for name in published if name.endswith("_blocks")]:
            matrix = name.removesuffix("_blocks")
            scales = unpacked.pop(matrix + "_scales", None)
            if scales is not None:  # without them the name stays, and is reported as unknown
                unpacked[matrix] = unpack_mxfp4(unpacked.pop(name), scales).mT  # (N, in, out)
        return super().to_ours(unpacked, config, layers)


def _apart(given: Tensors, _: ModelConfig) -> Tensors:
    """(N, D, 2 F), or a bias (N, 2 F), with alternating columns -> gate and up (N, F, D) or (N, F)."""
    rows = given[0].mT if given[0].ndim == 3 else given[0]
    return rows[:, 0::2].contiguous(), rows[:, 1::2].contiguous()


def _together(mine: Tensors, _: ModelConfig) -> Tensors:
    rows = torch.stack(mine, dim=2).flatten(1, 2)
    return (rows.mT if rows.ndim == 3 else rows,)


EXPERTS = LAYER_MLP + "experts."

WEIGHTS = GptOssWeights(
    rules=(
        *renames({LAYER_MLP + "router": LAYER_MLP + "gate"}),
        Rule((EXPERTS + "gate_up_proj",), (EXPERTS + "gate_proj", EXPERTS + "up_proj"), _apart, _together),
        Rule(
            (EXPERTS + "gate_up_proj_bias",), (EXPERTS + "gate_proj_bias", EXPERTS + "up_proj_bias"), _apart, _together
        ),
        transposed(EXPERTS + "down_proj", EXPERTS + "down_proj"),
    )
)
