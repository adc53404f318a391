"""A fused block computes what the block it is made from computes, and steps aside when it may not."""

from dataclasses import replace

import pytest
import torch
from quantised_models import SHAPES, TINY, hidden_states, in_float, quantised, relative_error
from torch import nn

from vesalius.compress.fused_layers import fuse_layers
from vesalius.infer.cache import DenseCache
from vesalius.kernels.block_formats import BlockTensor
from vesalius.kernels.native.interface import available
from vesalius.kernels.pages import Pages, Segments, quantise_heads
from vesalius.models.attention import Room
from vesalius.models.transformer import Transformer

pytestmark = pytest.mark.skipif(not available(), reason="no C++ compiler")

SHAPES = SHAPES | {
    "soft cap": {"attn_logit_softcapping": 5.0},
    "sinks": {"attention_sinks": True},
    "heads of an odd width": {"head_dim": 24, "num_attention_heads": 4},
}


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


class PagedCache:
    """Pages of all layers, for the segments that are set before each step. It does not attend: fused layers do."""

    def __init__(self, config, blocks, P, dtype):
        shape = (blocks, config.num_key_value_heads, P, config.head_dim)
        pools = [[torch.full(shape, 3.0), torch.full(shape, 3.0)] for _ in range(config.num_hidden_layers)]
        if dtype == torch.int8:
            quantised = [[quantise_heads(x) for x in pool] for pool in pools]
            self.pages = [Pages(k, v, ks.clone(), vs.clone()) for (k, ks), (v, vs) in quantised]
        else:
            self.pages = [Pages(*(x.to(dtype) for x in pool)) for pool in pools]
        self.segments = None

    def room(self, layer, count):
        assert count == self.segments.rows
        return Room(self.pages[layer], self.segments)


def texts(lengths):
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(64, (length,), generator=generator) for length in lengths]


def ragged_states(model, tokens, steps, P=16, dtype=torch.float32):
    """The decoder's output for each text, read by all together: steps[j][i] tokens of text i in step j."""
    sizes = [-(-len(text) // P) for text in tokens]
    order = torch.randperm(sum(sizes), generator=torch.Generator().manual_seed(6)).tolist()
    tables = [[order.pop() for _ in range(size)] for size in sizes]
    cache = PagedCache(model.config, sum(sizes), P, dtype)
    found, pasts = [[] for _ in tokens], [0 for _ in tokens]
    for counts in steps:
        cache.segments = Segments(counts, list(pasts), tables, torch.device("cpu"))
        parts = [text[p : p + c] for text, p, c in zip(tokens, pasts, counts, strict=True)]
        positions = torch.cat([torch.arange(p, p + c) for p, c in zip(pasts, counts, strict=True)])
        with torch.no_grad():
            out = model.model(torch.cat(parts)[None], positions[None], cache)[0]
        for i, piece in enumerate(out.split(counts)):
            found[i].append(piece)
            pasts[i] += counts[i]
    return [torch.cat(pieces) for pieces in found]


STEPS = [[9, 0, 30, 1], [1, 70, 1, 1], [1, 1, 1, 1], [2, 5, 0, 1], [1, 1, 1, 1], [0, 0, 40, 1]]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_sequences_together_have_the_bits_of_each_alone(dtype, threads):
    config = replace(TINY, sliding_window=40, attention_sinks=True)
    model = quantised(config)
    assert fuse_layers(model) == 2
    tokens = texts([sum(counts) for counts in zip(*STEPS, strict=True)])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = ragged_states(model, tokens, STEPS, dtype=dtype)
        for i, text in enumerate(tokens):
            alone = ragged_states(model, [text], [[counts[i]] for counts in STEPS if counts[i]], dtype=dtype)
            assert torch.equal(alone[0], together[i])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("P", [1, 5, 16, 32])
def test_pages_hold_what_the_dense_cache_does(P):
    model, plain = quantised(TINY), quantised(TINY)
    fuse_layers(model)
    chunks = [30, 1, 1, 5, 1, 20]
    tokens = torch.randint(64, (1, sum(chunks)), generator=torch.Generator().manual_seed(2))  # of hidden_states
    (ours,) = ragged_states(model, [tokens[0]], [[count] for count in chunks], P)
    exact = hidden_states(in_float(TINY), chunks)
    assert_as_exact(ours[None], hidden_states(plain, chunks), exact)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
def test_narrow_pages_are_near_to_float32(dtype):
    model = quantised(TINY)
    fuse_layers(model)
    tokens = texts([50, 70])
    truth = ragged_states(model, tokens, [[30, 40], *[[1, 1]] * 20])
    for ours, expected in zip(
        ragged_states(model, tokens, [[30, 40], *[[1, 1]] * 20], dtype=dtype), truth, strict=True
    ):
        assert 0 < relative_error(ours, expected) < 2e-2


def test_a_branch_of_a_tree_is_read_as_a_text_of_its_own():
    model = quantised(TINY)
    fuse_layers(model)
    (text,), P = texts([24]), 16
    a, b = text[20:22], text[22:24]  # both continue the first 20 tokens
    cache, table = PagedCache(TINY, 2, P, torch.float32), [[1, 0]]
    tree = [0b0001, 0b0011, 0b0100, 0b1100]
    with torch.no_grad():
        cache.segments = Segments([20], [0], table, text.device)
        model.model(text[None, :20], torch.arange(20)[None], cache)
        cache.segments = Segments([4], [20], table, text.device, tree)
        ours = model.model(text[None, 20:], torch.tensor([[20, 21, 20, 21]]), cache)[0]
    for branch, rows in ((a, ours[:2]), (b, ours[2:])):
        (alone,) = ragged_states(model, [torch.cat((text[:20], branch))], [[20], [2]])
        assert relative_error(rows, alone[20:]) < 1e-5


@pytest.mark.parametrize("tokens", [1, 3, 40])
def test_a_dense_batch_has_the_bits_of_each_row_alone(tokens):
    model = quantised(TINY)
    fuse_layers(model)
    chunks, batch = (
        [tokens, 1, tokens],
        torch.randint(64, (3, 2 * tokens + 1), generator=torch.Generator().manual_seed(4)),
    )

    def states(rows):
        cache = DenseCache(TINY, batch_size=len(rows), capacity=96)
        with torch.no_grad():
            return torch.cat([model.model(t, cache.positions(t.shape[1]), cache) for t in rows.split(chunks, 1)], 1)

    together = states(batch)
    for i in range(3):
        assert torch.equal(states(batch[i : i + 1])[0], together[i])


def test_blocks_that_are_loaded_later_are_used():
    fused, other = quantised(TINY), quantised(TINY)
    fuse_layers(fused)
    for layer in other.model.layers:
        layer.mlp.down_proj.pack(BlockTensor.quantise(torch.full((96, 160), 0.1), "q4_1"))
    fused.load_state_dict(other.state_dict())
    torch.testing.assert_close(hidden_states(fused, (5, 1)), hidden_states(other, (5, 1)), atol=1e-5, rtol=1e-4)


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
        {"mlp_bias": True},
    ],
    ids=str,
)
def test_what_the_native_layer_cannot_say_is_left_alone(changes):
    assert fuse_layers(quantised(replace(TINY, **changes))) == 0


def test_float_weights_are_left_alone():
    assert fuse_layers(Transformer(TINY).eval()) == 0


@pytest.mark.parametrize("heads", [2, 6, 12])
def test_up_to_eight_rows_are_read_bit_for_bit_as_one_after_another(heads):
    """So a chain of guesses changes no answer: int8 activations would make much of a last bit."""
    config = replace(TINY, num_attention_heads=heads, num_key_value_heads=2, num_hidden_layers=3)
    model = quantised(config)
    assert fuse_layers(model) == 3
    tokens = torch.randint(64, (1, 48), generator=torch.Generator().manual_seed(0))

    def read(sizes):
        cache, parts = DenseCache(config), []
        with torch.inference_mode():
            for part in tokens.split(sizes, 1):
                parts.append(model.model(part, cache.positions(part.shape[1]), cache))
        return torch.cat(parts, 1)

    expected = read([8] + [1] * 40)
    for size in (2, 5, 8):
        assert torch.equal(read([8] + [size] * (40 // size)), expected)
