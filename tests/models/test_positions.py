"""Positions: frequencies equal transformers' for the settings of published models, and turn each document by its own
length.
"""

import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.bloom.modeling_bloom import build_alibi_tensor

from vesalius.models.config import ModelConfig
from vesalius.models.families import read_config
from vesalius.models.positions import Alibi, document_lengths, rotary
from vesalius.models.transformer import Transformer

SIZES = {"vocab_size": 8, "hidden_size": 256, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}

PUBLISHED = {
    "Llama 3.1": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192, "rope_theta": 500_000.0,
    },
    "Llama 3.2": {
        "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192, "rope_theta": 500_000.0,
    },
    "Qwen 2.5": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768, "rope_theta": 1_000_000.0,
    },
    "gpt-oss": {
        "rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "rope_theta": 150_000.0,
        "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
    },
    "DeepSeek-V3": {
        "rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096, "rope_theta": 10_000.0,
        "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0,
    },
    "linear": {"rope_type": "linear", "factor": 8.0, "rope_theta": 10_000.0},
    "attention factor": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096, "rope_theta": 10_000.0,
        "attention_factor": 1.3,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_frequencies_equal_transformers(name):
    settings = {**SIZES, "max_position_embeddings": 131_072, "rope_parameters": dict(PUBLISHED[name])}
    theirs, factor = ROPE_INIT_FUNCTIONS[PUBLISHED[name]["rope_type"]](transformers.LlamaConfig(**settings))
    ours = rotary(read_config({"model_type": "llama", **settings}))
    torch.testing.assert_close(ours.inverse_frequencies, theirs, atol=0, rtol=2e-6)
    assert ours.attention_factor == pytest.approx(factor, rel=1e-7)


def longrope():
    settings = {**SIZES, "max_position_embeddings": 131_072, "original_max_position_embeddings": 4096}
    factors = {"short_factor": [1.0 + 0.01 * i for i in range(64)], "long_factor": [1.0 + 0.5 * i for i in range(64)]}
    return settings | {"rope_scaling": {"type": "longrope", **factors}}


@pytest.mark.parametrize("length", [4096, 4097])
def test_longrope_frequencies_equal_transformers_on_both_sides_of_the_border(length):
    theirs, factor = ROPE_INIT_FUNCTIONS["longrope"](transformers.Phi3Config(**longrope()), seq_len=length)
    ours = rotary(read_config({"model_type": "phi3", **longrope()}))
    positions = torch.arange(length).unsqueeze(0)
    cos, sin = ours(positions)  # (1, 1, T, E)
    angle = 4095 * theirs
    torch.testing.assert_close(
        cos[0, 0, 4095, :64], angle.cos() * factor, atol=2e-3, rtol=0
    )  # 2^-11: an angle's last bit
    torch.testing.assert_close(sin[0, 0, 1, 64:], theirs.sin() * factor, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("length", [100, 2048, 3000])
def test_dynamic_frequencies_equal_transformers_at_every_length(length):
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10_000.0}
    settings = {**SIZES, "max_position_embeddings": 2048, "rope_parameters": rope}
    theirs, _ = ROPE_INIT_FUNCTIONS["dynamic"](transformers.LlamaConfig(**settings), seq_len=length)
    config = read_config({"model_type": "llama", **settings})
    _, sin = rotary(config)(torch.arange(length).unsqueeze(0))
    torch.testing.assert_close(sin[0, 0, 1, :64], theirs.sin(), atol=1e-6, rtol=1e-5)
    assert config.max_position_embeddings == 8192


def test_each_document_has_its_own_length():
    positions = torch.tensor([[0, 1, 2, 0, 1, 0], [0, 0, 1, 2, 3, 4], [7, 8, 9, 10, 11, 12]])
    assert document_lengths(positions).tolist() == [[3, 3, 3, 2, 2, 1], [1, 5, 5, 5, 5, 5], [13] * 6]


@pytest.mark.parametrize("heads", [1, 2, 8, 12, 14, 112])
def test_alibi_slopes_equal_transformers(heads):
    bias = build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)  # (H, 1, 2): slope times position
    torch.testing.assert_close(Alibi(heads).slopes, bias[:, 0, 1], atol=0, rtol=1e-6)


@pytest.mark.parametrize("changes", [{"position": "rope"}, {"position": "alibi"}])
def test_derived_buffers_keep_their_precision_and_are_in_no_file(changes):
    model = Transformer(ModelConfig(**SIZES, **changes))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.to(torch.bfloat16)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert not before.keys() & model.state_dict().keys()
