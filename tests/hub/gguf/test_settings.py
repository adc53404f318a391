"""Metadata: every architecture's settings there and back, and a clear line for what a file or llama.cpp cannot say."""

from dataclasses import replace

import pytest
import torch
from gguf_configs import CONFIGS, LONGROPE, config_named
from hypothesis import given
from hypothesis import strategies as st

from vesalius.core.errors import UserError
from vesalius.hub.gguf.settings import ROPE_FACTORS, read_config
from vesalius.hub.gguf.settings_writing import write_config, write_config_as
from vesalius.models.config import ModelConfig
from vesalius.models.config_sections import RopeScaling
from vesalius.models.positions import rotary
from vesalius.models.presets import by_depth


def there_and_back(config: ModelConfig, architecture: str | None = None) -> ModelConfig:
    written = write_config_as(architecture, config) if architecture else write_config(config)
    names = {"token_embd.weight": config.vocab_size}
    fused = "attn_qkv" if written.name in ("phi3", "gpt2", "gptneox", "bloom") else "attn_q"
    names |= {f"blk.0.{fused}.bias": 1} if config.attention_bias else {}
    names |= {"blk.0.attn_output.bias": 1} if config.attention_output_bias else {}
    names |= {"blk.0.ffn_up.bias": 1} if config.mlp_bias else {}
    names |= {"blk.0.exp_probs_b.bias": 1} if config.mixture and config.mixture.correction_bias else {}
    names |= {} if config.tie_word_embeddings else {"output.weight": 1}
    return read_config(written.metadata, names, written.factors)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_comes_back_and_under_its_own_architecture(name):
    config, architecture = config_named(name), name.split(",")[0]
    assert write_config_as(architecture, config).lost == ()
    assert write_config(config).name == ("llama" if name == "phi3" else architecture)
    back = there_and_back(config, architecture)
    assert replace(back, rope_scaling=None) == replace(config, rope_scaling=None)
    if config.position == "rope":
        ours, theirs = rotary(config), rotary(back)
        torch.testing.assert_close(ours.inverse_frequencies, theirs.inverse_frequencies, rtol=1e-6, atol=0)
        torch.testing.assert_close(ours.long_frequencies, theirs.long_frequencies, rtol=1e-6, atol=0)
        assert ours.attention_factor == pytest.approx(theirs.attention_factor, rel=1e-6)


@given(depth=st.integers(1, 6), theta=st.floats(1e2, 1e7), tied=st.booleans(), eps=st.sampled_from([1e-5, 1e-6]))
def test_what_is_trained_here_is_a_qwen3(depth, theta, tied, eps):
    config = by_depth(
        depth, vocab_size=300, tie_word_embeddings=tied, rms_norm_eps=eps, rope_theta=float(f"{theta:.6g}")
    )
    assert write_config(config).name == "qwen3"
    assert there_and_back(config) == config


def test_a_window_as_long_as_the_context_is_none():
    config = config_named("llama")
    assert there_and_back(replace(config, sliding_window=64)) == config


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("llama", {"position": "learned"}, "position = 'learned'"),
        ("llama", {"sliding_window": 8}, "sliding_window = 8"),
        ("qwen3", {"mlp_bias": True, "attention_bias": True}, "'llama' is the nearest and cannot say qk_norm = 'head'"),
        ("qwen3", {"norm": "layer"}, "norm = 'layer'"),
        ("qwen3", {"final_logit_softcapping": 5.0, "hidden_act": "relu2"}, "hidden_act = 'relu2'"),
        ("gemma2", {"attention_multiplier": 0.3}, "attention_multiplier = 0.3"),
        ("llama", {"rope_scaling": RopeScaling(kind="dynamic", factor=2.0)}, "rope_scaling = "),
        ("qwen3", {"rope_scaling": LONGROPE}, "cannot say qk_norm = 'head'"),
        ("qwen3", {"partial_rotary_factor": 0.5, "mlp_bias": True}, "cannot say "),
    ],
)
def test_what_no_architecture_says_is_refused_by_name(name, changes, message):
    with pytest.raises(UserError, match=r"llama\.cpp has no architecture for this model") as caught:
        write_config(config_named(name, **changes))
    assert message in str(caught.value)


LLAMA = {
    "general.architecture": "llama",
    "llama.context_length": 64,
    "llama.embedding_length": 32,
    "llama.block_count": 2,
    "llama.feed_forward_length": 48,
    "llama.attention.head_count": 4,
}
NAMES = {"token_embd.weight": 50, "output.weight": 50}


def test_missing_keys_mean_what_llama_cpp_takes_them_for():
    config = read_config(LLAMA, NAMES, {})
    assert (config.num_key_value_heads, config.head_dim, config.rope_theta, config.rms_norm_eps) == (4, 8, 1e4, 1e-5)
    assert not config.tie_word_embeddings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general.architecture": "lama"}, "did you mean 'llama'"),
        ({"general.architecture": None}, "not one that can be opened"),
        ({"llama.expert_count": 8}, "mixture.num_experts_per_tok must be at least 1"),
        ({"llama.block_count": 0}, "no llama.block_count"),
        ({"llama.block_count": "2"}, "expected a whole number"),
        ({"llama.block_count": 1 << 40}, "expected a whole number"),
        ({"llama.attention.head_count": [4, 2]}, "differs from layer to layer"),
        ({"llama.attention.head_count_kv": 3}, "must be a multiple of num_key_value_heads"),
        ({"llama.attention.value_length": 16}, "values of another width than keys"),
        ({"llama.rope.dimension_count": 4}, "turns 4 of 8 numbers"),
        ({"llama.rope.freq_base": float("nan")}, "expected a number"),
        ({"llama.rope.freq_base": True}, "expected a number"),
        ({"llama.rope.scaling.type": "magic"}, "rope.scaling.type 'magic'"),
    ],
)
def test_metadata_that_cannot_be_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        read_config(LLAMA | changes, NAMES, {})


def test_equal_head_counts_in_a_list_are_one_number():
    assert read_config(LLAMA | {"llama.attention.head_count": [4, 4]}, NAMES, {}).num_attention_heads == 4


def test_rotary_factors_of_the_wrong_length_are_refused():
    with pytest.raises(UserError, match=r"rope_freqs\.weight has 3 factors, expected one for each of 4 pairs"):
        read_config(LLAMA, NAMES, {ROPE_FACTORS: torch.ones(3)})
