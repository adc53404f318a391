"""The family `deepseek_v3` (DeepSeek-AI 2024, arXiv:2412.19437, section 2.1; R1 is one): DeepSeek-V2 with sigmoid
scores, a bias that only chooses experts, and groups compared by their two best experts.

Published files also hold layers for predicting several tokens at once, numbered behind the last; they are passed over.
Left out: these layers.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from vesalius.core.errors import UserError
from vesalius.models.config import ModelConfig
from vesalius.models.config_sections import Mixture
from vesalius.models.families import deepseek_v2, llama
from vesalius.models.families.deepseek_v2 import routed_experts, with_latent_attention, write_latent
from vesalius.models.families.mixture_parts import number, whole
from vesalius.models.families.published import Published
from vesalius.models.weight_map import WeightMap

ARCHITECTURE = "DeepseekV3ForCausalLM"

LAYER = re.compile(r"^model\.layers\.(\d+)\.")

DEFAULTS = {
    "n_shared_experts": 1,
    "n_routed_experts": 256,
    "moe_intermediate_size": 2048,
    "num_experts_per_tok": 8,
}


def read(published: Published) -> ModelConfig:
    """UserError as for Llama, and for scores that are not sigmoids."""
    published = {"first_k_dense_replace": 3, "max_position_embeddings": 4096} | published
    if (scoring := published.get("scoring_func", "sigmoid")) != "sigmoid":
        raise UserError(f"scoring_func is {scoring!r}, expected 'sigmoid' in deepseek_v3")
    mixture = Mixture(
        **routed_experts(published, DEFAULTS),
        scoring="sigmoid",
        norm_topk_prob=bool(published.get("norm_topk_prob", True)),
        routed_scaling_factor=number(published, "routed_scaling_factor", 2.5),
        n_group=whole(published, "n_group", 8),
        topk_group=whole(published, "topk_group", 4),
        group_score="top2_sum",
        correction_bias=True,
    )
    return with_latent_attention(published, mixture)


def write(config: ModelConfig) -> Published | None:
    """None for other attention, or without a mixture."""
    if (values := write_latent(config, ARCHITECTURE)) is None or not config.mixture or not config.latent_attention:
        return None
    return llama.without(values, "mlp_bias") | {
        "norm_topk_prob": config.mixture.norm_topk_prob,
        "rope_interleave": config.latent_attention.rope_interleave,
        "num_nextn_predict_layers": 0,
    }


class DeepseekV3Weights(WeightMap):
    """V2's rules without the layers behind the last."""

    def to_ours(
        self, published: Mapping[str, Tensor], config: ModelConfig, layers: Iterable[int] | None = None
    ) -> dict[str, Tensor]:
        def beyond(name: str) -> bool:
            found = LAYER.search(name)
            return found is not None and int(found[1]) >= config.num_hidden_layers

        return super().to_ours({name: t for name, t in published.items() if not beyond(name)}, config, layers)


WEIGHTS = DeepseekV3Weights(rules=deepseek_v2.WEIGHTS.rules)
