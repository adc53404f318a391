"""Families: published configs map to ours and back, and transformers computes the same logits from either side."""

import json
from dataclasses import replace

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from vesalius.core.errors import UserError
from vesalius.models.config import CHOICES, ModelConfig
from vesalius.models.families import read_config, write_config
from vesalius.models.transformer import Transformer

TINY = ModelConfig(
    vocab_size=61,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=48,
    max_position_embeddings=64,
)
LLAMA = {
    "model_type": "llama",
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
TOKENS = torch.randint(61, (2, 17), generator=torch.Generator().manual_seed(0))


@st.composite
def configs(draw):
    heads, groups = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 2]))
    bias = draw(st.booleans())
    return ModelConfig(
        vocab_size=draw(st.integers(1, 100)),
        hidden_size=draw(st.integers(2, 64)),
        num_hidden_layers=draw(st.integers(1, 4)),
        num_attention_heads=heads * groups,
        num_key_value_heads=heads,
        head_dim=draw(st.sampled_from([2, 8])),
        max_position_embeddings=draw(st.integers(1, 4096)),
        attention_bias=bias,
        attention_output_bias=draw(st.sampled_from([bias, not bias])),
        mlp_bias=draw(st.booleans()),
        tie_word_embeddings=draw(st.booleans()),
        rope_theta=draw(st.sampled_from([500.0, 10_000.0, 5e5])),
        dropout=draw(st.sampled_from([0.0, 0.1])),
        final_logit_softcapping=draw(st.sampled_from([0.0, 30.0])),
        **{name: draw(st.sampled_from(known)) for name, known in CHOICES.items()},
    )


@settings(max_examples=200, deadline=None)
@given(config=configs())
def test_every_config_survives_being_written_as_json_and_read(config):
    assert read_config(json.loads(json.dumps(write_config(config)))) == config


@pytest.mark.parametrize(
    ("changes", "model_type"),
    [
        ({}, "llama"),
        ({"attention_bias": True, "attention_output_bias": True, "mlp_bias": True, "head_dim": 16}, "llama"),
        ({"qk_norm": "head", "head_dim": 16}, "qwen3"),
        ({"qk_norm": "head", "hidden_size": 30}, "qwen3"),
        ({"hidden_size": 30}, "vesalius"),
        ({"qk_norm": "head", "mlp_bias": True}, "vesalius"),
        ({"attention_bias": True}, "vesalius"),
        ({"norm": "layer"}, "vesalius"),
        ({"position": "learned"}, "vesalius"),
        ({"mlp": "plain"}, "vesalius"),
        ({"final_logit_softcapping": 15.0}, "vesalius"),
    ],
)
def test_a_config_is_written_as_the_family_that_can_say_it(changes, model_type):
    assert write_config(replace(TINY, **{"head_dim": 8} | changes))["model_type"] == model_type


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 1, "tie_word_embeddings": False, "rope_theta": 500.0},
        {"head_dim": 16, "attention_bias": True, "attention_output_bias": True, "mlp_bias": True},
        {"hidden_act": "gelu_tanh"},
        {"hidden_act": "relu2"},
        {"qk_norm": "head"},
        {
            "qk_norm": "head",
            "head_dim": 16,
            "attention_bias": True,
            "attention_output_bias": True,
            "tie_word_embeddings": False,
        },
    ],
)
def test_transformers_computes_the_same_logits_from_the_written_config(changes):
    config = replace(TINY, **changes)
    ours = Transformer(config).eval()
    for parameter in ours.parameters():  # norms and biases too must matter
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    values = write_config(config)
    theirs = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**values)).eval()
    theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(ours(TOKENS), theirs(TOKENS).logits, atol=1e-5, rtol=1e-5)
    assert values["architectures"] == [type(theirs).__name__]


def test_rope_theta_is_read_from_where_transformers_4_and_5_put_it():
    old = read_config(LLAMA | {"rope_theta": 777.0, "rope_scaling": None})
    new = read_config(LLAMA | {"rope_parameters": {"rope_theta": 777.0, "rope_type": "default"}})
    assert old.rope_theta == new.rope_theta == 777.0


def test_settings_that_are_not_mentioned_mean_what_the_family_says():
    theirs = transformers.LlamaConfig(**LLAMA)
    ours = read_config(LLAMA)
    for name in ("num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings"):
        assert getattr(ours, name) == getattr(theirs, name)
    qwen = read_config(LLAMA | {"model_type": "qwen3", "num_key_value_heads": 4})
    assert qwen.head_dim == transformers.Qwen3Config().head_dim
    assert qwen.max_position_embeddings == transformers.Qwen3Config().max_position_embeddings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "lama"}, "did you mean 'llama'"),
        ({"model_type": None}, "known: llama, qwen3, vesalius"),
        ({"hidden_size": None}, "hidden_size = None, expected a whole number"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope scaling 'linear'"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "rope scaling 'llama3'"),
        ({"partial_rotary_factor": 0.5}, "partial rotary"),
        ({"hidden_act": "quick_gelu"}, "hidden_act 'quick_gelu'.*known: gelu"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised by 'gptq'"),
        ({"model_type": "qwen3", "use_sliding_window": True}, "sliding-window"),
        ({"model_type": "qwen3", "layer_types": ["full_attention", "sliding_attention"]}, "sliding-window"),
    ],
)
def test_what_the_model_cannot_compute_is_refused_by_name(changes, message):
    with pytest.raises(UserError, match=message):
        read_config(LLAMA | changes)
