"""A shortened layer computes what the block it is made from computes, and steps aside when it may not."""

from dataclasses import replace

import pytest
import torch
from quantised_models import SHAPES, TINY, hidden_states, in_float, paged_states, relative_error, tokens_of
from quantised_models import quantised_for_torch as quantised
from torch import nn

from vesalius.compress import torch_layers
from vesalius.compress.torch_layers import shorten_layers
from vesalius.infer.paged_cache import BatchCache, BlockPool
from vesalius.kernels.packing import pack
from vesalius.kernels.paged_attention import Segments
from vesalius.models.transformer import Transformer

LOCAL = {"sliding_window": 20, "rope_local_theta": 100.0, "layer_types": ("sliding_attention", "full_attention")}
SHAPES = SHAPES | {"local frequencies": LOCAL}
CHUNKS = [30, *[1] * 12, 3, 8, 1]


def shortened(config, *arguments, **others):
    model = quantised(config, *arguments, **others)
    assert shorten_layers(model) == config.num_hidden_layers
    return model


def assert_as_exact(ours, plain, exact):
    """Both round to bfloat16 alike; where a sum differs in its last bit, one number may round the other way. So they
    are nearer to each other than to the exact result, and ours is as near to that.
    """
    assert relative_error(ours, plain) < 0.7 * relative_error(plain, exact)
    assert relative_error(ours, exact) < 1.1 * relative_error(plain, exact)


@pytest.mark.parametrize("name", SHAPES)
def test_a_shortened_step_equals_the_plain_one(name):
    config = replace(TINY, **SHAPES[name])
    truth, exact = hidden_states(quantised(config), CHUNKS), hidden_states(in_float(config), CHUNKS)
    assert_as_exact(hidden_states(shortened(config), CHUNKS), truth, exact)


@pytest.mark.parametrize("others", [{}, {"v_proj": "q8_0", "up_proj": "q4_0"}], ids=str)
@pytest.mark.parametrize("format", ["q4_0", "q8_0"])
def test_other_formats(format, others):
    truth = hidden_states(quantised(TINY, format, **others), CHUNKS)
    exact = hidden_states(in_float(TINY, format, **others), CHUNKS)
    assert_as_exact(hidden_states(shortened(TINY, format, **others), CHUNKS), truth, exact)


@pytest.mark.parametrize("window", [0, 7])
@pytest.mark.parametrize("table", [list(range(2, 17)), list(range(14, -1, -1))], ids=["in line", "scattered"])
def test_many_blocks_are_one_sequence(table, window):
    config = replace(TINY, sliding_window=window)
    truth, exact = hidden_states(quantised(config), CHUNKS), hidden_states(in_float(config), CHUNKS)
    assert_as_exact(paged_states(shortened(config), CHUNKS, table), truth, exact)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
def test_keys_in_fewer_bits(dtype):
    table = list(range(15))
    truth = paged_states(quantised(TINY), CHUNKS, table, dtype)
    assert relative_error(paged_states(shortened(TINY), CHUNKS, table, dtype), truth) < 1e-2


def test_several_sequences_in_one_step_equal_each_alone():
    model = shortened(TINY)
    pool, tokens = BlockPool(TINY, 4, 8, torch.float32), tokens_of(TINY, 8)
    with torch.no_grad():
        both = BatchCache(pool, Segments([3, 5], [0, 0], [[0], [1]], pool.device))
        together = model.model(tokens, torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4]]), both)
        alone = BatchCache(pool, Segments([5], [0], [[2]], pool.device))
        second = model.model(tokens[:, 3:], torch.arange(5).unsqueeze(0), alone)
    torch.testing.assert_close(together[:, 3:], second, atol=1e-5, rtol=1e-5)


def test_one_product_serves_matrices_that_read_the_same(monkeypatch):
    model, seen = shortened(TINY), []
    form = torch_layers.torch_form
    monkeypatch.setattr(torch_layers, "torch_form", lambda blocks: seen.append(blocks.shape) or form(blocks))
    hidden_states(model, [3, 1, 1])
    assert seen == 2 * [(160, 96), (96, 96), (320, 96), (96, 160)]


def test_names_and_weights_stay():
    plain, short = quantised(TINY), shortened(TINY)
    assert short.state_dict().keys() == plain.state_dict().keys()
    assert [name for name, _ in short.named_modules()] == [name for name, _ in plain.named_modules()]


@pytest.mark.parametrize("part", ["self_attn", "mlp.up_proj", "input_layernorm", "self_attn.q_norm"])
def test_who_listens_to_a_part_hears_it(part):
    model, heard = shortened(TINY), []
    model.model.layers[1].get_submodule(part).register_forward_hook(lambda *_: heard.append(part))
    hidden_states(model, [1, 1, 1])
    assert len(heard) == 3


def test_a_part_that_is_replaced_is_used():
    model = shortened(TINY)
    before = hidden_states(model, [3, 1])
    model.model.layers[0].mlp.down_proj = nn.Linear(TINY.intermediate_size, TINY.hidden_size)
    assert relative_error(hidden_states(model, [3, 1]), before) > 0.1


def test_a_matrix_that_is_loaded_anew_is_used():
    model, other = shortened(TINY), quantised(TINY)
    hidden_states(model, [3, 1])
    for chosen in (model, other):
        layer = chosen.model.layers[0].self_attn.o_proj
        layer.matrix = pack(other.model.layers[1].self_attn.o_proj.blocks(), tiles=False)
    assert relative_error(hidden_states(model, [3, 1]), hidden_states(other, [3, 1])) < 5e-3


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
def test_other_blocks_are_left_alone(changes):
    assert shorten_layers(quantised(replace(TINY, **changes))) == 0


def test_float_weights_are_left_alone():
    assert shorten_layers(Transformer(TINY).eval()) == 0
