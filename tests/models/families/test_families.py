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
from vesalius.models.config_sections import RopeScaling
from vesalius.models.families import family_of, read_config, write_config
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
    bias, norm, layers = draw(st.booleans()), draw(st.sampled_from(CHOICES["norm"])), draw(st.integers(1, 4))
    kinds = st.lists(st.sampled_from(["sliding_attention", "full_attention"]), min_size=layers, max_size=layers)
    return ModelConfig(
        vocab_size=draw(st.integers(1, 100)),
        hidden_size=draw(st.integers(8, 64)),
        num_hidden_layers=layers,
        num_attention_heads=heads * groups,
        num_key_value_heads=heads,
        head_dim=draw(st.sampled_from([4, 8])),
        max_position_embeddings=draw(st.integers(1, 4096)),
        attention_bias=bias,
        attention_output_bias=draw(st.sampled_from([bias, not bias])),
        mlp_bias=draw(st.booleans()),
        tie_word_embeddings=draw(st.booleans()),
        rope_theta=draw(st.sampled_from([500.0, 10_000.0, 5e5])),
        dropout=draw(st.sampled_from([0.0, 0.1])),
        final_logit_softcapping=draw(st.sampled_from([0.0, 30.0])),
        norm=norm,
        norm_offset=norm == "rms" and draw(st.booleans()),
        sliding_window=draw(st.sampled_from([0, 7])),
        layer_types=tuple(draw(st.sampled_from([[], draw(kinds)]))),
        layers_without_rope=draw(st.sampled_from([(), (0,)])),
        rope_local_theta=draw(st.sampled_from([0.0, 100.0])),
        rope_scaling=draw(st.sampled_from([None, RopeScaling(kind="linear", factor=2.0)])),
        partial_rotary_factor=draw(st.sampled_from([1.0, 0.5])),
        attention_sinks=draw(st.booleans()),
        attention_multiplier=draw(st.sampled_from([0.0, 0.1])),
        attn_logit_softcapping=draw(st.sampled_from([0.0, 30.0])),
        embedding_norm=draw(st.booleans()),
        embedding_multiplier=draw(st.sampled_from([1.0, 3.0])),
        residual_multiplier=draw(st.sampled_from([1.0, 0.5])),
        logits_scaling=draw(st.sampled_from([1.0, 2.0])),
        **{name: draw(st.sampled_from(known)) for name, known in CHOICES.items() if name != "norm"},
    )


NEAR = {
    "llama": {},
    "mistral": {"sliding_window": 7},
    "qwen2": {"attention_bias": True},
    "qwen3": {"qk_norm": "head", "head_dim": 16},
    "smollm3": {"layers_without_rope": (1,)},
    "gemma": {"norm_offset": True, "embedding_multiplier": 32**0.5, "hidden_act": "gelu_tanh"},
    "gemma2": {"norm_offset": True, "embedding_multiplier": 32**0.5, "block": "sandwich"},
    "gemma3_text": {
        "norm_offset": True, "embedding_multiplier": 32**0.5, "block": "sandwich", "qk_norm": "head",
        "sliding_window": 7, "layer_types": ("sliding_attention", "full_attention"), "rope_local_theta": 50.0,
    },
    "olmo2": {"block": "post", "qk_norm": "full"},
    "granite": {"embedding_multiplier": 3.0},
    "phi3": {"partial_rotary_factor": 0.5},
    "gpt2": {
        "norm": "layer", "position": "learned", "mlp": "plain", "hidden_act": "gelu_tanh", "attention_bias": True,
        "attention_output_bias": True, "mlp_bias": True, "num_key_value_heads": 4,
    },
    "gpt_neox": {
        "norm": "layer", "mlp": "plain", "hidden_act": "gelu", "attention_bias": True, "attention_output_bias": True,
        "mlp_bias": True, "num_key_value_heads": 4, "block": "parallel",
    },
    "bloom": {
        "norm": "layer", "position": "alibi", "mlp": "plain", "hidden_act": "gelu_tanh", "attention_bias": True,
        "attention_output_bias": True, "mlp_bias": True, "num_key_value_heads": 4, "embedding_norm": True,
        "intermediate_size": 128,
    },
}  # fmt: skip
"""What each family is, beside TINY."""

CHANGES = {
    "hidden_act": ["silu", "gelu", "gelu_tanh", "relu", "relu2"],
    "num_key_value_heads": [1, 2, 4],
    "head_dim": [8, 16],
    "hidden_size": [32, 36],
    "attention_bias": [False, True],
    "attention_output_bias": [False, True],
    "mlp_bias": [False, True],
    "tie_word_embeddings": [True, False],
    "rope_theta": [100.0, 1e4],
    "rope_scaling": [None, RopeScaling(kind="linear", factor=2.0)],
    "sliding_window": [0, 5],
    "layer_types": [(), ("full_attention", "sliding_attention")],
    "layers_without_rope": [(), (0,)],
    "partial_rotary_factor": [1.0, 0.5],
    "attention_multiplier": [0.0, 0.1],
    "attn_logit_softcapping": [0.0, 2.0],
    "final_logit_softcapping": [0.0, 3.0],
    "residual_multiplier": [1.0, 0.5],
    "logits_scaling": [1.0, 2.0],
    "embedding_norm": [False, True],
    "rms_norm_eps": [1e-5, 1e-3],
    "max_position_embeddings": [64, 32],
}


@st.composite
def near_configs(draw):
    """A family's usual config with a setting or two changed, which another family may say, or none."""
    settings = {"head_dim": 8} | NEAR[draw(st.sampled_from(sorted(NEAR)))]
    for name in draw(st.lists(st.sampled_from(sorted(CHANGES)), max_size=2, unique=True)):
        settings[name] = draw(st.sampled_from(CHANGES[name]))
    return replace(TINY, **settings)


@settings(max_examples=60, deadline=None)
@given(config=near_configs())
def test_whatever_family_a_config_is_written_as_transformers_computes_the_same(config):
    if write_config(config)["model_type"] != "vesalius":
        assert_transformers_agrees(config)


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
        ({"hidden_size": 30}, "mistral"),
        ({"attention_bias": True}, "qwen2"),
        *((changes, model_type) for model_type, changes in NEAR.items()),
        ({"qk_norm": "head", "mlp_bias": True}, "vesalius"),
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
    assert_transformers_agrees(replace(TINY, **changes))


def assert_transformers_agrees(config):
    ours = Transformer(config).eval()
    for parameter in ours.parameters():  # norms and biases too must matter
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    values = write_config(config)
    theirs_config = transformers.AutoConfig.for_model(**values, pad_token_id=None, bos_token_id=None, eos_token_id=None)
    theirs_config._attn_implementation = "eager"
    theirs = transformers.AutoModelForCausalLM.from_config(theirs_config).eval()
    published = family_of(values).weights.to_published(ours.state_dict(), config)
    # What files of GPT-NeoX call embed_out, transformers 5 calls lm_head in memory.
    theirs.load_state_dict({name.replace("embed_out", "lm_head"): weight for name, weight in published.items()})
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
        ({"model_type": None}, "known: bloom, deepseek_v2"),
        ({"hidden_size": None}, "hidden_size = None, expected a whole number"),
        ({"rope_scaling": {"type": "mrope"}}, "rope scaling 'mrope'"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 2.0}}, "rope scaling 'llama3' without low_freq_factor"),
        ({"model_type": "phi3", "rope_scaling": {"type": "linear", "factor": 2.0}}, "Phi-3 has rope"),
        ({"partial_rotary_factor": 0.5}, "a part of each head"),
        ({"hidden_act": "quick_gelu"}, "hidden_act 'quick_gelu'.*known: gelu"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised by 'gptq'"),
        ({"model_type": "mistral", "num_key_value_heads": 3}, "multiple of num_key_value_heads"),
        ({"model_type": "qwen2", "num_key_value_heads": 4, "layer_types": ["chunked"]}, "layer_types has 'chunked'"),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "this model is causal"),
        ({"model_type": "gemma3", "text_config": None}, "text_config = None"),
        ({"model_type": "gpt2", "n_embd": 8}, "n_layer = None"),
        ({"model_type": "gpt2", "add_cross_attention": True}, "add_cross_attention = True"),
        ({"model_type": "bloom", "apply_residual_connection_post_layernorm": True}, "apply_residual_connection"),
    ],
)
def test_what_the_model_cannot_compute_is_refused_by_name(changes, message):
    with pytest.raises(UserError, match=message):
        read_config(LLAMA | changes)


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 2), st.just(10**12), st.floats(), st.text(max_size=3), st.just([]),
    st.lists(st.integers(-1, 1), max_size=2), st.just({}),
    st.dictionaries(st.sampled_from(["rope_type", "factor"]), st.text(max_size=6)),
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(model_type=st.sampled_from(sorted(NEAR)), data=st.data())
def test_a_damaged_config_is_refused_in_one_line(model_type, data):
    published = write_config(replace(TINY, **{"head_dim": 8} | NEAR[model_type]))
    names = sorted({*published, "rope_parameters", "layer_types", "sliding_window", "rope_scaling"} - {"model_type"})
    for name in data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3)):
        published[name] = data.draw(ODD)
    config = errors = None
    try:
        config = read_config(published)
    except UserError as error:
        errors = str(error)
    if errors is None:
        with torch.device("meta"):
            Transformer(config)
    else:
        assert "\n" not in errors
