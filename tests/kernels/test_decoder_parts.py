"""The parts of a native decoder layer, each beside the readable kernel that says the same."""

import ctypes

import pytest
import torch
from torch.nn import functional as F

from vesalius.kernels import norms, rope
from vesalius.kernels.native.interface import ISAS, available, available_isas, functions
from vesalius.kernels.paged_attention import Pages, Segments
from vesalius.kernels.pages import write_reference

pytestmark = pytest.mark.skipif(not available(), reason="no C++ compiler")


def drawn(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def assert_rounded(ours, exact):
    """At most half a step of int8 away, the largest of 32 neighbours being 127 steps."""
    largest = exact.unflatten(-1, (-1, 32)).abs().amax(-1).repeat_interleave(32, -1)
    assert ((ours - exact).abs() <= 0.51 * largest / 127).all()
    assert not torch.equal(ours, exact)


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("rows", [1, 5])
def test_norm_and_rounding(rows, isa):
    (x, weight), out = drawn((rows, 96), (96,)), torch.empty(rows, 96)
    addresses = x.data_ptr(), weight.data_ptr()
    functions().vesalius_norm_quantise(*addresses, rows, 96, 1e-5, out.data_ptr(), 2, ISAS[isa])
    assert_rounded(out, norms.reference(x, weight, 1e-5))


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("rows", [1, 5])
def test_gate_and_rounding(rows, isa):
    (gate, up), out = drawn((rows, 160), (rows, 160)), torch.empty(rows, 160)
    functions().vesalius_gate_quantise(gate.data_ptr(), up.data_ptr(), rows, 160, out.data_ptr(), 2, ISAS[isa])
    assert_rounded(out, F.silu(gate) * up)


@pytest.mark.parametrize("size", [16, 8])
def test_rotation_and_writing(size):
    q, k, v, keys, values = drawn((5, 4, 16), (5, 2, 16), (5, 2, 16), (9, 2, 4, 16), (9, 2, 4, 16))
    segments = Segments([3, 2], [6, 0], [[7, 1, 4], [2]], q.device)
    cos, sin = rope.angles(torch.tensor([6, 7, 8, 0, 1]), rope.frequencies(size))
    turned = [rope.reference(x.transpose(0, 1)[None], cos, sin)[0].transpose(0, 1) for x in (q, k)]
    truth, ours = (Pages(keys.clone(), values.clone()) for _ in range(2))
    write_reference(truth, segments, turned[1], v)
    structs = [ctypes.byref(ours.struct), ctypes.byref(segments.struct(4))]
    addresses = cos.data_ptr(), sin.data_ptr(), size, q.data_ptr(), 4, k.data_ptr(), v.data_ptr()
    functions().vesalius_turn_and_write(*structs, *addresses, 2)
    for mine, expected in ((q, turned[0]), (k, turned[1]), (ours.keys, truth.keys), (ours.values, truth.values)):
        torch.testing.assert_close(mine, expected, atol=1e-6, rtol=1e-6)
