"""The family `deepseek_v2` (DeepSeek-AI 2024, arXiv:2405.04434, section 2): latent attention, and a mixture of many
small experts with shared ones behind a few dense layers.

Files pair neighbouring rows where rotary positions turn; here pairs are half a head apart, so these rows change places
on the way (a fixed permutation, which gradients follow too). transformers does not read `norm_topk_prob` in this
family, and no published checkpoint turns it on: chosen scores are never renormalised.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vesalius.core.errors import UserError
from vesalius.models.config import ModelConfig
from vesalius.models.config_sections import LatentAttention, Mixture
from vesalius.models.families import llama
from vesalius.models.families.mixture_parts import (
    LAYER_MLP,
    PER_EXPERT,
    capacity_factor,
    number,
    whole,
    written_capacity,
)
from vesalius.models.families.published import Published, heads_divide
from vesalius.models.weight_map import Rule, Tensors, WeightMap, renames

ARCHITECTURE = "DeepseekV2ForCausalLM"

TOPK_METHODS = ("greedy", "group_limited_greedy")


def read(published: Published) -> ModelConfig:
    """UserError as for Llama, and for a way to choose experts that the family does not have."""
    method = published.get("topk_method") or "greedy"
    if method not in TOPK_METHODS:
        raise UserError(f"topk_method is {method!r}, expected one of {', '.join(TOPK_METHODS)} in deepseek_v2")
    limited = method == "group_limited_greedy"
    mixture = Mixture(
        **routed_experts(published, {"n_shared_experts": 2, "n_routed_experts": 64, "moe_intermediate_size": 1407}),
        norm_topk_prob=False,
        n_group=whole(published, "n_group", 1) if limited else 1,
        topk_group=whole(published, "topk_group", 1) if limited else 1,
        routed_scaling_factor=number(published, "routed_scaling_factor", 1.0),
    )
    return with_latent_attention(published, mixture)


def write(config: ModelConfig) -> Published | None:
    """None for other attention, without a mixture, or where the heads do not divide the width."""
    values, m = write_latent(config, ARCHITECTURE), config.mixture
    if values is None or m is None or not heads_divide(config):
        return None
    return values | {"topk_method": "group_limited_greedy" if m.n_group > 1 else "greedy", "norm_topk_prob": False}


def routed_experts(published: Published, defaults: dict[str, int]) -> dict[str, Any]:
    """The part of the mixture that DeepSeek's families share."""
    if published.get("moe_layer_freq", 1) != 1:
        raise UserError(
            f"moe_layer_freq is {published['moe_layer_freq']!r}, expected 1: a mixture in every sparse layer"
        )
    given = {name: whole(published, name, default) for name, default in defaults.items()}
    layers = whole(published, "num_hidden_layers")
    return {
        "num_experts": given["n_routed_experts"],
        "num_experts_per_tok": whole(published, "num_experts_per_tok", defaults.get("num_experts_per_tok")),
        "moe_intermediate_size": given["moe_intermediate_size"],
        "shared_expert_intermediate_size": given["moe_intermediate_size"] * given["n_shared_experts"],
        "dense_layers": tuple(range(min(whole(published, "first_k_dense_replace", 0), layers))),
        "capacity_factor": capacity_factor(published),
    }


def with_latent_attention(published: Published, mixture: Mixture) -> ModelConfig:
    """The config of a DeepSeek model with this mixture."""
    latent = LatentAttention(
        kv_lora_rank=whole(published, "kv_lora_rank", 512),
        q_lora_rank=whole(published | {"q_lora_rank": published.get("q_lora_rank", 1536) or 0}, "q_lora_rank"),
        qk_nope_head_dim=whole(published, "qk_nope_head_dim", 128),
        qk_rope_head_dim=whole(published, "qk_rope_head_dim", 64),
        v_head_dim=whole(published, "v_head_dim", 128),
        rope_interleave=bool(published.get("rope_interleave", True)),
    )
    heads = {"num_key_value_heads": whole(published, "num_attention_heads"), "head_dim": latent.qk_rope_head_dim}
    return replace(llama.read(published | heads), latent_attention=latent, mixture=mixture)


def write_latent(config: ModelConfig, architecture: str) -> Published | None:
    """What DeepSeek's families share, or None where the config has other parts."""
    m, latent = config.mixture, config.latent_attention
    if m is None or latent is None:
        return None
    return llama.write_decoder(config, architecture) | {
        "kv_lora_rank": latent.kv_lora_rank,
        "q_lora_rank": latent.q_lora_rank or None,
        "qk_nope_head_dim": latent.qk_nope_head_dim,
        "qk_rope_head_dim": latent.qk_rope_head_dim,
        "v_head_dim": latent.v_head_dim,
        "n_routed_experts": m.num_experts,
        "num_experts_per_tok": m.num_experts_per_tok,
        "moe_intermediate_size": m.moe_intermediate_size,
        "n_shared_experts": m.shared_expert_intermediate_size // m.moe_intermediate_size,
        "n_group": m.n_group,
        "topk_group": m.topk_group,
        "routed_scaling_factor": m.routed_scaling_factor,
        "first_k_dense_replace": len(m.dense_layers),
        **written_capacity(m),
    }


def _to_halves(rows: Tensor) -> Tensor:
    """(…, P, in): rows 0 2 4 … first, then 1 3 5 …"""
    return torch.cat((rows[..., 0::2, :], rows[..., 1::2, :]), dim=-2)


def _to_neighbours(rows: Tensor) -> Tensor:
    """The way back."""
    return torch.stack(rows.chunk(2, dim=-2), dim=-2).flatten(-3, -2)


def _heads_turned(tensors: Tensors, config: ModelConfig, *, back: bool) -> Tensors:
    """Queries (H · (N + P), in): the last P rows of each head."""
    (tensor,), latent = tensors, config.latent_attention
    if latent is None or not latent.rope_interleave:
        return tensors
    heads = tensor.unflatten(0, (config.num_attention_heads, -1))  # (H, N + P, in)
    plain, turning = heads.split((latent.qk_nope_head_dim, latent.qk_rope_head_dim), dim=1)
    turned = _to_neighbours(turning) if back else _to_halves(turning)
    return (torch.cat((plain, turned), dim=1).flatten(0, 1),)


def _last_turned(tensors: Tensors, config: ModelConfig, *, back: bool) -> Tensors:
    """The latent vector and the shared key (R + P, in), or their bias (R + P,): the last P rows."""
    (tensor,), latent = tensors, config.latent_attention
    if latent is None or not latent.rope_interleave:
        return tensors
    plain, turning = tensor.view(len(tensor), -1).split((latent.kv_lora_rank, latent.qk_rope_head_dim))
    turned = _to_neighbours(turning) if back else _to_halves(turning)
    return (torch.cat((plain, turned)).view(tensor.shape),)


def _of_heads(name: str) -> Rule:
    return Rule(
        (name,),
        (name,),
        lambda given, config: _heads_turned(given, config, back=False),
        lambda mine, config: _heads_turned(mine, config, back=True),
    )


def _of_key(name: str) -> Rule:
    return Rule(
        (name,),
        (name,),
        lambda given, config: _last_turned(given, config, back=False),
        lambda mine, config: _last_turned(mine, config, back=True),
    )


ATTENTION = "model.layers.{}.self_attn."

WEIGHTS = WeightMap(
    rules=(
        _of_heads(ATTENTION + "q_proj.weight"),
        _of_heads(ATTENTION + "q_b_proj.weight"),
        _of_key(ATTENTION + "kv_a_proj_with_mqa.weight"),
        _of_key(ATTENTION + "kv_a_proj_with_mqa.bias"),
        *renames(
            {
                f"{LAYER_MLP}shared_experts.{part}": f"{LAYER_MLP}shared_expert.{part}"
                for part in ("gate_proj", "up_proj", "down_proj")
            }
        ),
        *PER_EXPERT,
    )
)
