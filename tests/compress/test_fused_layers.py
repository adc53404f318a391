"""A fused block computes what the block it is made from computes, and steps aside when it may not."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from vesalius.compress.fused_layers import fuse_layers
from vesalius.compress.quantised_linear import install_blocks
from vesalius.infer.cache import DenseCache
from vesalius.kernels.block_formats import BlockTensor
from vesalius.kernels.native.interface import available
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer

pytestmark = pytest.mark.skipif(not available(), reason="no C++ compiler")

TINY = ModelConfig(
    vocab_size=64,
    hidden_size=96,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=16,
    intermediate_size=160,
    max_position_embeddings=256,
)
SHAPES = {
    "grouped heads": {},
    "one head, odd widths": {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 32, "hidden_size": 32},
    "qk-norm": {"qk_norm": "head"},
    "biases": {"attention_bias": True, "attention_output_bias": True},
    "window": {"sliding_window": 20},
    "half of a head turns": {"partial_rotary_factor": 0.5},
    "no positions": {"position": "none"},
    "one layer without positions": {"layers_without_rope": (1,)},
    "multipliers": {"residual_multiplier": 0.3, "attention_multiplier": 0.1},
}


def drawn(config, form):
    """A model, and its matrices in blocks."""
    model = Transformer(config).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3 if parameter.dim() < 2 else 0.15, generator=generator)
    names = [n for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n and "lm_head" not in n]
    return model, {n: BlockTensor.quantise(model.get_parameter(n).detach(), form) for n in names}


def quantised(config, form="q4_1"):
    model, blocks = drawn(config, form)
    install_blocks(model, blocks)
    return model


def in_float(config, form="q4_1"):
    """The model whose products no activation is rounded for."""
    model, blocks = drawn(config, form)
    model.load_state_dict({name: tensor.dequantise() for name, tensor in blocks.items()}, strict=False)
    return model


def hidden_states(model, chunks, dtype=torch.float32):
    """The decoder's output, chunk by chunk over one cache."""
    cache = DenseCache(model.config, capacity=8, dtype=dtype)
    tokens = torch.randint(64, (1, sum(chunks)), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return torch.cat([model.model(t, cache.positions(t.shape[1]), cache) for t in tokens.split(chunks, dim=1)], 1)


def relative_error(ours, truth):
    return float((ours - truth).norm() / truth.norm())


def assert_as_exact(ours, plain, exact):
    """Ours and the plain path round activations to int8 alike; where a norm differs in its last bit, one activation may
    round the other way. So they are nearer to each other than to the exact result, and ours is as near to that.
    """
    assert relative_error(ours, plain) < 0.5 * relative_error(plain, exact)
    assert relative_error(ours, exact) < 1.1 * relative_error(plain, exact)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("name", SHAPES)
def test_a_fused_step_equals_the_plain_one(name, threads):
    config = replace(TINY, **SHAPES[name])
    plain, fused = quantised(config), quantised(config)
    assert fuse_layers(fused) == 2
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        chunks = [30, *[1] * 40, 3, 8, 1]
        ours, truth = hidden_states(fused, chunks), hidden_states(plain, chunks)
    finally:
        torch.set_num_threads(before)
    assert_as_exact(ours, truth, hidden_states(in_float(config), chunks))


@pytest.mark.parametrize("form", ["q4_0", "q8_0"])
def test_other_formats(form):
    plain, fused = quantised(TINY, form), quantised(TINY, form)
    fuse_layers(fused)
    chunks = [5, *[1] * 20]
    exact = hidden_states(in_float(TINY, form), chunks)
    assert_as_exact(hidden_states(fused, chunks), hidden_states(plain, chunks), exact)


def test_a_cache_in_bfloat16():
    model = quantised(TINY)
    truth = hidden_states(model, [5, *[1] * 20])
    fuse_layers(model)
    assert relative_error(hidden_states(model, [5, *[1] * 20], torch.bfloat16), truth) < 2e-2


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("head_dim", [16, 48, 64, 80])
def test_a_prompt_in_pieces(head_dim, threads):
    changes = {"num_attention_heads": 2, "num_key_value_heads": 1, "sliding_window": 50 if head_dim == 48 else 0}
    config = replace(TINY, head_dim=head_dim, qk_norm="head", **changes)
    plain, fused = quantised(config), quantised(config)
    fuse_layers(fused)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        chunks = [9, 100, 70, 1, 33]
        ours, truth = hidden_states(fused, chunks), hidden_states(plain, chunks)
    finally:
        torch.set_num_threads(before)
    assert_as_exact(ours, truth, hidden_states(in_float(config), chunks))


def test_a_long_context_is_shared_between_threads():
    config = replace(TINY, max_position_embeddings=600)
    model = quantised(config)
    truth = hidden_states(model, [500, 1, 1])
    fuse_layers(model)
    assert_as_exact(hidden_states(model, [500, 1, 1]), truth, hidden_states(in_float(config), [500, 1, 1]))


def test_names_and_weights_stay():
    plain, fused = quantised(TINY), quantised(TINY)
    fuse_layers(fused)
    assert fused.state_dict().keys() == plain.state_dict().keys()
    assert [name for name, _ in fused.named_modules()] == [name for name, _ in plain.named_modules()]


def test_a_hook_on_one_layer_leaves_the_others_fused():
    model, plain = quantised(TINY), quantised(TINY)
    fuse_layers(model)
    heard = []
    for chosen in (model, plain):
        chosen.model.layers[1].register_forward_hook(lambda _, inputs, output: heard.append(output))
        hidden_states(chosen, [4, 1])
    for ours, truth in zip(heard[:2], heard[2:], strict=True):
        assert relative_error(ours, truth) < 5e-3


@pytest.mark.parametrize("part", ["self_attn", "mlp.up_proj", "input_layernorm", "self_attn.q_norm"])
def test_who_listens_to_a_part_hears_it(part):
    model = quantised(TINY)
    fuse_layers(model)
    heard = []
    model.model.layers[1].get_submodule(part).register_forward_hook(lambda *_: heard.append(part))
    hidden_states(model, [1, 1, 1])
    assert len(heard) == 3


def test_a_part_that_is_replaced_is_used():
    model = quantised(TINY)
    fuse_layers(model)
    before = hidden_states(model, [3, 1])
    block = model.model.layers[0]
    block.mlp.down_proj = nn.Linear(TINY.intermediate_size, TINY.hidden_size)
    assert relative_error(hidden_states(model, [3, 1]), before) > 0.1


@pytest.mark.parametrize(
    "changes",
    [
        {"block": "parallel"},
        {"norm_offset": True},
        {"hidden_act": "gelu"},
        {"mlp": "plain"},
        {"qk_norm": "full"},
        {"attn_logit_softcapping": 5.0},
        {"attention_sinks": True},
        {"mlp_bias": True},
    ],
    ids=str,
)
def test_what_the_native_layer_cannot_say_is_left_alone(changes):
    assert fuse_layers(quantised(replace(TINY, **changes))) == 0


def test_float_weights_are_left_alone():
    assert fuse_layers(Transformer(TINY).eval()) == 0
