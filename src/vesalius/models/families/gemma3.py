"""The families `gemma3_text` and `gemma3` (Gemma team 2025, arXiv:2503.19786, section 2): Gemma 2 without soft caps,
with a norm on query and key heads, five sliding layers to one full layer, and a rotary base of their own in the sliding
ones.

`gemma3` also reads images; what is opened of it is the text model. Left out: its vision tower.
"""

from dataclasses import replace
from typing import Any

from vesalius.core.errors import UserError
from vesalius.models.config import ModelConfig
from vesalius.models.families.gemma2 import read_sandwich, write_sandwich
from vesalius.models.families.published import FULL, SLIDING, Published, heads_divide, windows
from vesalius.models.weight_map import WeightMap

ARCHITECTURE = "Gemma3ForCausalLM"

DEFAULTS = {
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
    "tie_word_embeddings": True,
}
THETA, LOCAL_THETA = 1_000_000.0, 10_000.0

IMAGE_AND_TEXT_WEIGHTS = WeightMap(
    aliases=(
        (r"^language_model\.model\.|^model\.language_model\.", "model."),
        (r"^language_model\.lm_head", "lm_head"),
    ),
    ignored=(r"^(model\.)?(vision_tower|multi_modal_projector)\.",),
)


def read(published: Published) -> ModelConfig:
    """UserError as for Llama, and for attention to later tokens. A soft cap on scores, which the config has from
    Gemma 2, means nothing here, nor does it in transformers.
    """
    full, local_theta = _rope(published)
    config = read_sandwich(llama_named(published) | full, DEFAULTS)
    pattern = published.get("sliding_window_pattern") or 6
    layers = range(config.num_hidden_layers)
    kinds = published.get("layer_types") or [SLIDING if (i + 1) % pattern else FULL for i in layers]
    return replace(
        config,
        **windows(published.get("sliding_window", 4096), kinds),
        qk_norm="head",
        rope_local_theta=local_theta,
        final_logit_softcapping=published.get("final_logit_softcapping") or 0.0,
    )


def read_image_and_text(published: Published) -> ModelConfig:
    """The text model of a model that also reads images."""
    text = published.get("text_config")
    if not isinstance(text, dict):
        raise UserError(f"config.json has text_config = {text!r}, expected the settings of the text model")
    return read(TEXT_DEFAULTS | text)


TEXT_DEFAULTS = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
}
"""What files of `gemma3` leave out of their text_config where it is the usual."""


def write(config: ModelConfig) -> Published | None:
    """None for a width that the heads do not divide, which transformers' Gemma 3 refuses."""
    if not heads_divide(config):
        return None
    return write_sandwich(config, ARCHITECTURE) | {"rope_local_base_freq": config.rope_local_theta}


def write_image_and_text(_: ModelConfig) -> None:
    """Never: `gemma3_text` says all that a text model is."""


def llama_named(published: Published) -> Published:
    """Without the places where rotary settings stand, which this family nests by the kind of layer."""
    return {name: value for name, value in published.items() if name not in ("rope_parameters", "rope_scaling")}


def _rope(published: Published) -> tuple[dict[str, Any], float]:
    """The settings of the full layers as Llama has them, and the base of the sliding ones."""
    nested = published.get("rope_parameters") or {}
    full = nested.get(FULL) or published.get("rope_scaling") or {}
    theta = full.get("rope_theta") or published.get("rope_theta") or THETA
    local = (nested.get(SLIDING) or {}).get("rope_theta") or published.get("rope_local_base_freq") or LOCAL_THETA
    return {"rope_parameters": full | {"rope_theta": theta}}, float(local)
