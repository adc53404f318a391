"""A tensor of blocks: rows move without being unpacked."""

import pytest
import torch

from vesalius.kernels.block_formats import FORMATS, BlockTensor
from vesalius.kernels.block_formats.bits import bit_sequence, packed, packed_bit_sequence, planes
from vesalius.kernels.block_formats.k_quants import pack_scales, unpack_scales


def random_tensor(name: str, *shape: int) -> BlockTensor:
    generator = torch.Generator().manual_seed(0)
    kind = FORMATS[name]
    blocks = torch.randint(256, (*shape[:-1], kind.row_bytes(shape[-1])), generator=generator, dtype=torch.uint8)
    return BlockTensor.of(name, blocks)


@pytest.mark.parametrize("name", FORMATS)
def test_rows_can_be_picked_and_joined_as_blocks(name):
    tensor = random_tensor(name, 6, 512)
    order = torch.tensor([5, 0, 3])
    joined = BlockTensor.of(name, torch.cat([tensor.blocks[order], tensor.blocks[1:2]]))
    expected = tensor.dequantise()[torch.tensor([5, 0, 3, 1])]
    assert joined.shape == (4, 512)
    assert torch.equal(joined.dequantise().view(torch.int32), expected.view(torch.int32))


def test_shape_and_bytes_are_those_of_the_rows():
    tensor = random_tensor("q4_k", 2, 3, 512)
    assert tensor.shape == (2, 3, 512)
    assert tensor.nbytes == 2 * 3 * 2 * 144
    assert tensor.dequantise().shape == (2, 3, 512)


@pytest.mark.parametrize(
    ("shape", "blocks", "message"),
    [
        ((2, 64), torch.zeros(2, 67, dtype=torch.uint8), r"must be uint8 \(2, 68\), got torch.uint8 \(2, 67\)"),
        ((2, 64), torch.zeros(2, 68), "got torch.float32"),
        ((3, 64), torch.zeros(2, 68, dtype=torch.uint8), r"uint8 \(3, 68\)"),
        ((2, 65), torch.zeros(2, 68, dtype=torch.uint8), "multiple of 32 values, got 65"),
    ],
)
def test_blocks_that_do_not_fit_the_shape_are_refused(shape, blocks, message):
    with pytest.raises(ValueError, match=message):
        BlockTensor("q8_0", shape, blocks)


@pytest.mark.parametrize("width", [1, 2, 4])
def test_planes_and_back(width):
    byte = torch.arange(256, dtype=torch.uint8).view(8, 32)
    assert torch.equal(packed(planes(byte, width), width), byte)


def test_a_sequence_of_bits_begins_with_the_lowest():
    assert bit_sequence(torch.tensor([0b00000101, 0b10000000], dtype=torch.uint8)).tolist() == [1, 0, 1] + [0] * 12 + [
        1
    ]
    byte = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(packed_bit_sequence(bit_sequence(byte)), byte)


def test_scales_of_six_bits_survive_packing():
    scale, least = torch.arange(64, dtype=torch.uint8).view(8, 8), torch.arange(63, -1, -1).to(torch.uint8).view(8, 8)
    assert [part.tolist() for part in unpack_scales(pack_scales(scale, least))] == [scale.tolist(), least.tolist()]
