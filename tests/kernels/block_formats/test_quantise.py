"""Packing: bit-equal to the gguf package where it can pack, as exact as llama.cpp where it cannot."""

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vesalius.kernels.block_formats import FORMATS, VALUES_AT_ONCE, BlockTensor

PACKED_BY_GGUF = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1")
K_QUANTS = ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k")
WRITTEN = (*PACKED_BY_GGUF, *K_QUANTS)

GGML_ERROR = {
    ("q2_k", "normal"): 0.29669455,
    ("q3_k", "normal"): 0.15092489,
    ("q4_k", "normal"): 0.07129251,
    ("q5_k", "normal"): 0.03611091,
    ("q6_k", "normal"): 0.01774800,
    ("q2_k", "laplace"): 0.34423984,
    ("q3_k", "laplace"): 0.17623558,
    ("q4_k", "laplace"): 0.08466385,
    ("q5_k", "laplace"): 0.04287070,
    ("q6_k", "laplace"): 0.02168221,
}
"""What ggml 0.25.3 (quantize_row_q2_K_ref and so on) loses of the very weights that the test draws: the
root mean square of the error over that of the weights. Of q3_k all its blocks are ours, of q4_k and q6_k 97 %, of q2_k
93 %, of q5_k, whose tries lie closest together, 84 %: the others hold sums that were added in another order, so that a
tie was rounded to the other side or another try of as little loss was kept."""

OTHER_ORDER = {"q5_k": 1.0003}
"""By how much that may show; 1.0001 elsewhere."""


def gguf_bytes(values: np.ndarray, name: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        return gguf.quants.quantize(values, gguf.GGMLQuantizationType[name.upper()]).view(np.uint8)


def gguf_values(rows: torch.Tensor, name: str) -> np.ndarray:
    return gguf.quants.dequantize(rows.numpy(), gguf.GGMLQuantizationType[name.upper()])


def weights(*shape: int, kind: str = "normal", seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    drawn = generator.standard_normal(shape) if kind == "normal" else generator.laplace(size=shape)
    return (0.02 * drawn).astype(np.float32)


def relative_error(values: np.ndarray, name: str) -> float:
    packed = BlockTensor.quantise(torch.from_numpy(values), name)
    lost = packed.dequantise().double().numpy() - values
    return float(np.sqrt(np.square(lost).mean() / np.square(values.astype(np.float64)).mean()))


@pytest.mark.parametrize("name", PACKED_BY_GGUF)
def test_random_weights_are_packed_into_the_same_bytes(name):
    values = weights(17, 1024) * np.exp(weights(17, 1) * 200)  # rows from tiny to large
    np.testing.assert_array_equal(FORMATS[name].quantise(torch.from_numpy(values)).numpy(), gguf_bytes(values, name))


@pytest.mark.parametrize("name", PACKED_BY_GGUF)
@settings(max_examples=50, deadline=None)
@given(
    values=arrays(
        np.float32, (2, 64), elements=st.floats(-1000, 1000, width=16).filter(lambda x: abs(x) > 1e-6 or x == 0)
    )
)
def test_values_with_ties_and_zeros_are_packed_into_the_same_bytes(name, values):
    np.testing.assert_array_equal(FORMATS[name].quantise(torch.from_numpy(values)).numpy(), gguf_bytes(values, name))


@pytest.mark.parametrize("case", GGML_ERROR, ids="-".join)
def test_k_quants_lose_no_more_than_the_reference_implementation(case):
    name, kind = case
    assert relative_error(weights(512, 2048, kind=kind), name) < OTHER_ORDER.get(name, 1.0001) * GGML_ERROR[case]


@pytest.mark.parametrize("name", K_QUANTS)
def test_what_we_pack_the_gguf_package_unpacks_to_the_same_values(name):
    packed = BlockTensor.quantise(torch.from_numpy(weights(9, 512)), name)
    np.testing.assert_array_equal(packed.dequantise().numpy(), gguf_values(packed.blocks, name))


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize(
    "row",
    [
        torch.zeros(256),
        torch.full((256,), 0.5),
        torch.full((256,), -0.5),
        torch.arange(256.0),
        -torch.arange(256.0),
        torch.eye(256)[17] * 3,
        torch.full((256,), 1e-40),
    ],
    ids=["zeros", "equal", "equal negative", "rising", "falling", "one", "subnormal"],
)
def test_rows_without_spread_or_sign_survive(name, row):
    unpacked = BlockTensor.quantise(row, name).dequantise()
    steps = {
        "f16": 2**11,
        "bf16": 2**8,
        "q8_0": 127,
        "q5_0": 15,
        "q5_1": 31,
        "q4_0": 7,
        "q4_1": 15,
        "q2_k": 3,
        "q3_k": 3,
        "q4_k": 12,
        "q5_k": 25,
        "q6_k": 30,
    }
    tolerance = row.abs().max().item() / steps[name] if name in steps else 0
    torch.testing.assert_close(unpacked, row, atol=tolerance + 1e-7, rtol=0)


@pytest.mark.parametrize("name", ["q8_0", *K_QUANTS])
def test_packing_again_changes_next_to_nothing(name):
    once = BlockTensor.quantise(torch.from_numpy(weights(4, 512)), name).dequantise().numpy()
    assert relative_error(once, name) < 0.3 * relative_error(weights(4, 512), name)


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_float_types_are_packed_as_their_float32_values(name, dtype):
    values = torch.from_numpy(weights(3, 2, 256)).to(dtype)
    assert torch.equal(FORMATS[name].quantise(values), FORMATS[name].quantise(values.float()))


@pytest.mark.parametrize("name", WRITTEN)
def test_a_tensor_larger_than_one_piece_is_packed_as_its_rows_are(name):
    values = torch.from_numpy(weights(5, VALUES_AT_ONCE // 4 + 256))
    assert torch.equal(FORMATS[name].quantise(values)[4], FORMATS[name].quantise(values[4]))


@pytest.mark.parametrize("name", sorted(set(WRITTEN) - {"f32", "f16", "bf16"}))
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_weights_that_are_not_finite_are_refused(name, bad):
    with pytest.raises(ValueError, match="must be finite"):
        FORMATS[name].quantise(torch.full((256,), bad))


@pytest.mark.parametrize("name", sorted(set(WRITTEN) - {"f32", "f16", "bf16"}))
def test_weights_too_large_for_the_scale_are_refused(name):
    with pytest.raises(ValueError, match="half precision ends at 65504"):
        FORMATS[name].quantise(torch.linspace(-1e9, 1e9, 256))


@pytest.mark.parametrize("name", sorted(set(WRITTEN) - {"f32", "f16", "bf16"}))
def test_rows_that_are_not_whole_blocks_are_refused(name):
    with pytest.raises(ValueError, match=f"multiple of {FORMATS[name].block_size} values, got 48"):
        BlockTensor.quantise(torch.zeros(2, 48), name)


@pytest.mark.parametrize("name", sorted(set(FORMATS) - set(WRITTEN)))
def test_formats_that_are_only_read_say_which_are_written(name):
    with pytest.raises(ValueError, match=f"{name} is only read here.*q8_0.*q6_k"):
        BlockTensor.quantise(torch.zeros(256), name)
