"""The dense families: a published checkpoint opens with the same logits, gradients and text, and is saved back."""

import pytest
import torch
import transformers
from family_checks import (
    SIZES,
    TOKENIZER,
    VOCAB,
    FamilyChecks,
    check_logits,
    close,
    open_pair,
    randomise,
    sample_tokens,
)
from safetensors.torch import load_file, save_file

from vesalius.core.errors import UserError
from vesalius.hub.directory import open_model
from vesalius.hub.weights import read_weights

ROPE = {
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 32},
    "llama3": {
        "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
    },
    "longrope": {
        "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 2.0, 3.0, 4.0],
        "original_max_position_embeddings": 32,
    },
}  # fmt: skip


def rope(kind, **settings):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1000.0, **ROPE.get(kind, {}), **settings}}


SANDWICH = {**SIZES, "num_hidden_layers": 4, "head_dim": 16, "query_pre_attn_scalar": 20, "sliding_window": 8}
QWEN = {**SIZES, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
GPT2 = {
    "vocab_size": VOCAB, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128, "bos_token_id": None,
    "eos_token_id": None,
}  # fmt: skip
BLOOM = {
    "vocab_size": VOCAB, "hidden_size": 24, "n_layer": 3, "n_head": 6, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
NEOX = {name: value for name, value in SIZES.items() if name != "num_key_value_heads"}

CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**SIZES, tie_word_embeddings=True),
    "llama linear": lambda: transformers.LlamaConfig(**SIZES, **rope("linear")),
    "llama dynamic": lambda: transformers.LlamaConfig(**SIZES | {"max_position_embeddings": 32}, **rope("dynamic")),
    "llama yarn": lambda: transformers.LlamaConfig(**SIZES, **rope("yarn")),
    "llama yarn, all settings": lambda: transformers.LlamaConfig(
        **SIZES, **rope("yarn", beta_fast=8.0, beta_slow=2.0, mscale=0.7, mscale_all_dim=0.9, truncate=False)
    ),
    "llama llama3": lambda: transformers.LlamaConfig(**SIZES, **rope("llama3")),
    "mistral": lambda: transformers.MistralConfig(**SIZES, head_dim=16, sliding_window=8),
    "mistral without window": lambda: transformers.MistralConfig(**SIZES, sliding_window=None),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES),
    "qwen2 sliding": lambda: transformers.Qwen2Config(**QWEN),
    "qwen3": lambda: transformers.Qwen3Config(**SIZES, head_dim=16),
    "qwen3 sliding": lambda: transformers.Qwen3Config(**QWEN, head_dim=16, attention_bias=True),
    "gemma": lambda: transformers.GemmaConfig(**SIZES, head_dim=16),
    "gemma2": lambda: transformers.Gemma2Config(**SANDWICH, attn_logit_softcapping=2.0, final_logit_softcapping=3.0),
    "gemma3_text": lambda: transformers.Gemma3TextConfig(
        **SANDWICH,
        layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        },
    ),
    "phi3": lambda: transformers.Phi3Config(**SIZES, sliding_window=12),
    "phi3 partial": lambda: transformers.Phi3Config(**SIZES, **rope("default", partial_rotary_factor=0.5)),
    "phi3 longrope": lambda: transformers.Phi3Config(**SIZES, original_max_position_embeddings=32, **rope("longrope")),
    "smollm3": lambda: transformers.SmolLM3Config(**SIZES, no_rope_layers=[1, 0, 1]),
    "smollm3 sliding": lambda: transformers.SmolLM3Config(
        **SIZES, no_rope_layer_interval=2, use_sliding_window=True, sliding_window=8, attention_bias=True, mlp_bias=True
    ),
    "olmo2": lambda: transformers.Olmo2Config(**SIZES),
    "granite": lambda: transformers.GraniteConfig(
        **SIZES, embedding_multiplier=3.0, residual_multiplier=0.4, logits_scaling=2.0, attention_multiplier=0.2
    ),
    "gpt2": lambda: transformers.GPT2Config(**GPT2),
    "gpt2 untied": lambda: transformers.GPT2Config(
        **GPT2, n_inner=40, tie_word_embeddings=False, scale_attn_weights=False
    ),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**NEOX),
    "gpt_neox serial": lambda: transformers.GPTNeoXConfig(
        **NEOX, use_parallel_residual=False, rotary_pct=0.5, rotary_emb_base=500, tie_word_embeddings=True
    ),
    "bloom": lambda: transformers.BloomConfig(**BLOOM),
}
"""Texts of the checks are longer than the windows and than the original contexts."""


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request, tmp_path_factory):
    return open_pair(tmp_path_factory.mktemp("pair"), CONFIGS[request.param]())


class TestDenseFamilies(FamilyChecks):
    """Each of CONFIGS."""


def test_the_text_model_of_gemma3_opens_without_its_vision_tower(tmp_path):
    text = transformers.Gemma3TextConfig(**SANDWICH)
    vision = transformers.SiglipVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=8, patch_size=4
    )
    config = transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    torch.manual_seed(0)
    theirs = transformers.Gemma3ForConditionalGeneration(config).eval()
    randomise(theirs, seed=0)
    theirs.save_pretrained(tmp_path)
    TOKENIZER.save(tmp_path)
    tokens = sample_tokens(2, 20)
    with torch.no_grad():
        close(open_model(tmp_path)[0](tokens), theirs(tokens).logits, 1e-5)


def test_a_checkpoint_of_the_body_alone_opens(tmp_path):
    """As the published files of GPT-2 are."""
    pair = open_pair(tmp_path, transformers.GPT2Config(**GPT2))
    pair.theirs.transformer.save_pretrained(tmp_path / "body")
    TOKENIZER.save(tmp_path / "body")
    assert "wte.weight" in read_weights(tmp_path / "body")
    tokens = sample_tokens(1, 20)
    with torch.no_grad():
        close(open_model(tmp_path / "body")[0](tokens), pair.ours(tokens), 0)


@pytest.mark.parametrize("family", ["gpt2", "phi3", "bloom"])
def test_shards_of_fused_weights_open(tmp_path, family):
    pair = open_pair(tmp_path, CONFIGS[family](), max_shard_size="20KB")
    assert not (pair.directory / "model.safetensors").exists()
    check_logits(pair)


def test_a_missing_tensor_is_called_as_the_file_calls_it(tmp_path):
    pair = open_pair(tmp_path, transformers.GPT2Config(**GPT2))
    file = pair.directory / "model.safetensors"
    weights = load_file(file)
    del weights["transformer.h.1.attn.c_attn.weight"]
    save_file(weights, file)
    with pytest.raises(UserError, match=r"lacks transformer.h.1.attn.c_attn.weight"):
        open_model(pair.directory)


def test_weights_of_a_file_are_not_copied_where_rows_are_cut(tmp_path):
    ours = open_pair(tmp_path, transformers.Phi3Config(**SIZES)).ours.model.layers[0].self_attn
    storages = {
        projection.weight.untyped_storage().data_ptr() for projection in (ours.q_proj, ours.k_proj, ours.v_proj)
    }
    assert len(storages) == 1
