"""Products with quantised matrices: every implementation, instruction set and format against its truth.

Native: equal to 1e-5 to the same arithmetic written in torch with float64 (activations rounded to int8 as `steps`
says, then exact), and within the stated bound of the float32 product. Torch: within what bfloat16 allows.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quantised_blocks import HALVES, random_blocks

from vesalius.kernels import quantised_matmul as module
from vesalius.kernels.native.interface import ISAS, available, available_isas
from vesalius.kernels.quantised_matmul import pack, quantised_matmul, quantised_top_k, reference

FORMATS = list(HALVES)
needs_native = pytest.mark.skipif(not available(), reason="no C++ compiler on this machine")
every_isa = pytest.mark.parametrize("isa", available_isas())


def activations(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def steps(x):
    """(…, groups, 2, 1) float64: what int8 activations count in. Of the halves of 32 columns the one with the larger
    magnitude has its largest / 127, the other that divided by the largest power of two up to 16 that it allows."""
    largest = x.float().unflatten(-1, (-1, 2, 16)).abs().amax(-1, keepdim=True)
    most = largest.amax(-2, keepdim=True)
    (mantissa, exponent), (own_mantissa, own_exponent) = most.frexp(), largest.frexp()
    powers = exponent - own_exponent - (mantissa < own_mantissa).int()
    return (most / 127).double() * 2.0 ** -powers.where(largest > 0, 4).clamp(0, 4)


def rounded(x):
    """x as the kernels see it: int8 times its step, in float64."""
    halves, step = x.float().unflatten(-1, (-1, 2, 16)), steps(x)
    most = halves.abs().amax((-1, -2), keepdim=True)
    # 127 / most would be torch's reciprocal times 127, which is rounded twice
    inverse = torch.full_like(most, 127).div(most) * ((most / 127).double() / step).float()
    values = torch.where(most > 0, halves * inverse, 0).round()
    return (values.double() * step).flatten(-3)


def block_peaks(matrix):
    """(rows, columns): the largest magnitude in each weight's group, the size of terms before they cancel."""
    groups = matrix.dequantise().abs().unflatten(-1, (-1, 32))
    return groups.amax(-1, keepdim=True).expand_as(groups).flatten(-2)


def assert_within(ours, truth, bound):
    excess = (ours.double() - truth.double()).abs() - bound.double()
    assert ours.shape == truth.shape
    assert not ours.isnan().any()
    assert excess.numel() == 0 or excess.max() <= 1e-30, f"outside the bound by {excess.max():.3g}"


def assert_integer_product(ours, x, matrix):
    """Equal to 1e-5 of the terms' size to the float64 product of the rounded activations."""
    x, weight = rounded(x), matrix.dequantise().double()
    assert_within(ours, x @ weight.T, 1e-5 * (x.abs() @ block_peaks(matrix).double().T))


@needs_native
@every_isa
@pytest.mark.parametrize("format", FORMATS)
def test_native_equals_the_same_arithmetic_in_torch(format, isa):
    for rows, columns in ((1, 256), (16, 512), (37, 256)):
        matrix = pack(random_blocks(format, rows, columns))
        for tokens in (1, 2, 3, 8, 21):
            x = activations(tokens, columns)
            assert_integer_product(quantised_matmul(x, matrix, f"native:{isa}"), x, matrix)


@needs_native
@pytest.mark.parametrize("format", ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0"])
def test_columns_need_only_be_whole_blocks(format):
    matrix, x = pack(random_blocks(format, 20, 96)), activations(5, 96)
    for isa in available_isas():
        assert_integer_product(quantised_matmul(x, matrix, f"native:{isa}"), x, matrix)


@needs_native
@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(FORMATS),
    st.sampled_from(available_isas() or ["none"]),
    st.integers(1, 70),
    st.integers(1, 3),
    st.integers(0, 40),
    st.integers(0, 1000),
)
def test_native_of_any_shape(format, isa, rows, supers, tokens, seed):
    matrix, x = pack(random_blocks(format, rows, 256 * supers, seed)), activations(tokens, 256 * supers, seed=seed)
    assert_integer_product(quantised_matmul(x, matrix, f"native:{isa}"), x, matrix)


@needs_native
@every_isa
@pytest.mark.parametrize("format", FORMATS)
def test_the_largest_codes_and_activations_do_not_overflow(format, isa):
    blocks = random_blocks(format, 16, 512)
    ones = torch.full_like(blocks.blocks, 255)
    for start in range(0, ones.shape[1], blocks.blocks.shape[1] // (512 // (256 if format.endswith("k") else 32))):
        for at in HALVES[format]:
            ones[:, start + at : start + at + 2] = torch.tensor([0, 0x3C], dtype=torch.uint8)  # half-precision one
    matrix, x = pack(type(blocks).of(format, ones)), torch.full((9, 512), 3.0)
    assert_integer_product(quantised_matmul(x, matrix, f"native:{isa}"), x, matrix)
    assert_integer_product(quantised_matmul(-x, matrix, f"native:{isa}"), -x, matrix)
    lowest = torch.full_like(ones, 128) if format == "q8_0" else ones
    lowest[:, :2] = ones[:, :2]
    matrix = pack(type(blocks).of(format, lowest))
    assert_integer_product(quantised_matmul(-x, matrix, f"native:{isa}"), -x, matrix)


@needs_native
@pytest.mark.parametrize("format", FORMATS)
def test_native_is_within_the_rounding_of_activations(format):
    matrix, x = pack(random_blocks(format, 40, 512)), activations(11, 512)
    half_step = (steps(x) / 2).expand(-1, -1, -1, 16).flatten(-3)
    bound = half_step @ matrix.dequantise().abs().double().T
    slack = 1e-5 * (x.abs().double() @ block_peaks(matrix).double().T)
    assert_within(quantised_matmul(x, matrix, "native"), reference(x, matrix), bound + slack)


@pytest.mark.parametrize("tokens", [0, 1, 5, 33])
@pytest.mark.parametrize("format", FORMATS)
def test_torch_is_within_the_rounding_of_bfloat16(format, tokens):
    for rows in (1, 40):
        matrix, x = pack(random_blocks(format, rows, 512), tiles=False), activations(tokens, 512)
        # scales, zeros, activations and results: each 2^-9 of the terms, of which a code of 5 or 8 bits has two
        bound = 2**-6 * (x.abs() @ block_peaks(matrix).T)
        assert_within(quantised_matmul(x, matrix, "torch"), reference(x, matrix), bound)


@pytest.mark.parametrize("format", ["q4_1", "q8_0", "q5_0"])
def test_torch_forms_of_many_rows_lie_as_if_packed_at_once(format):
    matrix, x = pack(random_blocks(format, 2100, 64), tiles=False), activations(3, 64)
    bound = 2**-6 * (x.abs() @ block_peaks(matrix).T)
    assert_within(quantised_matmul(x, matrix, "torch"), reference(x, matrix), bound)


@pytest.mark.parametrize("format", FORMATS)
def test_the_bytes_of_a_torch_form_are_known_before_it_is_made(format):
    matrix = pack(random_blocks(format, 70, 512), tiles=False)
    assert matrix.nbytes == matrix.torch_form.nbytes


def test_the_reference_is_the_float_product():
    matrix, x = pack(random_blocks("q4_1", 1050, 64)), activations(2, 3, 64)
    torch.testing.assert_close(reference(x, matrix), x @ matrix.blocks().dequantise().T, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("impl", [None, *module.IMPLS])
@pytest.mark.parametrize("shape", [(64,), (0, 64), (2, 0, 64), (1, 1, 64), (2, 3, 64)])
def test_leading_sizes_are_kept(impl, shape):
    if impl == "native" and not available():
        pytest.skip("no C++ compiler on this machine")
    matrix, x = pack(random_blocks("q8_0", 19, 64)), activations(*shape)
    ours = quantised_matmul(x, matrix, impl)
    assert ours.dtype == torch.float32
    assert_within(ours, reference(x, matrix), 2**-5 * (x.abs() @ block_peaks(matrix).T))


@pytest.mark.parametrize("impl", [None, *module.IMPLS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_of_x_is_that_of_the_float_product(impl, dtype):
    if impl == "native" and not available():
        pytest.skip("no C++ compiler on this machine")
    matrix = pack(random_blocks("q4_1", 1030, 64))
    x = activations(4, 64).to(dtype).requires_grad_()
    ours, cotangent = quantised_matmul(x, matrix, impl), activations(4, 1030, seed=5)
    (grad,) = torch.autograd.grad(ours, x, cotangent)
    assert grad.dtype == dtype
    tolerance = 1e-4 if dtype == torch.float32 else 1e-1
    torch.testing.assert_close(grad.float(), cotangent @ matrix.dequantise(), atol=tolerance, rtol=tolerance)


@needs_native
@every_isa
def test_views_and_other_dtypes_are_read_as_they_are(isa):
    matrix, x = pack(random_blocks("q4_0", 18, 64)), activations(64, 6)
    name = f"native:{isa}"
    assert torch.equal(quantised_matmul(x.T, matrix, name), quantised_matmul(x.T.contiguous(), matrix, name))
    half = x.T.bfloat16()
    assert torch.equal(quantised_matmul(half, matrix, name), quantised_matmul(half.float(), matrix, name))


@needs_native
@every_isa
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_hidden(isa, value):
    matrix, x = pack(random_blocks("q8_0", 16, 64)), activations(2, 64)
    x[1, 40] = value
    ours = quantised_matmul(x, matrix, f"native:{isa}")
    assert ours[0].isfinite().all()
    assert not ours[1].isfinite().any()


@needs_native
@every_isa
def test_zeros_give_zeros(isa):
    for format in FORMATS:
        ours = quantised_matmul(torch.zeros(3, 256), pack(random_blocks(format, 16, 256)), f"native:{isa}")
        assert torch.equal(ours, torch.zeros(3, 16)), format


@needs_native
def test_the_number_of_threads_does_not_change_a_bit():
    matrix, many = pack(random_blocks("q4_k", 700, 512)), activations(50, 512)
    before, products = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            products.append((quantised_matmul(many, matrix), quantised_matmul(many[:1], matrix)))
    finally:
        torch.set_num_threads(before)
    for product in products[1:]:
        assert all(torch.equal(a, b) for a, b in zip(product, products[0], strict=True))


@pytest.mark.parametrize("impl", [None, "reference", "torch", *(f"native:{isa}" for isa in available_isas())])
@pytest.mark.parametrize(
    ("rows", "k", "shape"), [(300, 1, (64,)), (300, 7, (11, 64)), (5, 5, (2, 64)), (40, 3, (0, 64))]
)
def test_top_k_is_the_front_of_the_sorted_product(impl, rows, k, shape):
    matrix, x = pack(random_blocks("q8_0", rows, 64)), activations(*shape)
    values, ids = quantised_top_k(x, matrix, k, impl)
    product = quantised_matmul(x, matrix, impl)
    order = product.sort(dim=-1, descending=True, stable=True)
    assert torch.equal(values, order.values[..., :k])
    assert torch.equal(ids, order.indices[..., :k])


@pytest.mark.parametrize("impl", ["reference", *(f"native:{isa}" for isa in available_isas())])
def test_equal_values_are_given_in_the_order_of_their_ids(impl):
    blocks = random_blocks("q8_0", 1, 64)
    matrix = pack(type(blocks).of("q8_0", blocks.blocks.expand(600, -1)))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        _, ids = quantised_top_k(activations(2, 64), matrix, 4, impl)
    finally:
        torch.set_num_threads(before)
    assert ids.tolist() == [[0, 1, 2, 3]] * 2


@needs_native
def test_top_k_finds_nan_as_torch_does():
    matrix = pack(random_blocks("q8_0", 40, 64))
    _, ids = quantised_top_k(torch.full((1, 64), float("nan")), matrix, 2)
    assert ids.tolist() == [[0, 1]]


@pytest.mark.parametrize("k", [0, 20])
def test_top_k_needs_so_many_rows(k):
    with pytest.raises(ValueError, match=f"k must be 1 to 19, got {k}"):
        quantised_top_k(activations(1, 64), pack(random_blocks("q8_0", 19, 64)), k)


def test_what_does_not_fit_is_refused():
    blocks = random_blocks("q8_0", 19, 64)
    matrix, stored = pack(blocks), pack(blocks, tiles=False)
    with pytest.raises(ValueError, match=r"x must be \(…, 64\), got \(1, 32\)"):
        quantised_matmul(activations(1, 32), matrix)
    with pytest.raises(ValueError, match=r"x must be \(…, 64\), got \(1, 32\)"):
        quantised_top_k(activations(1, 32), matrix, 1)
    with pytest.raises(ValueError, match="unknown implementation 'torhc', did you mean 'torch'"):
        quantised_matmul(activations(1, 64), matrix, "torhc")
    with pytest.raises(ValueError, match="needs a matrix packed in tiles"):
        quantised_matmul(activations(1, 64), stored, "native")


@needs_native
def test_instruction_sets_are_checked_by_name():
    matrix = pack(random_blocks("q8_0", 19, 64))
    with pytest.raises(ValueError, match="unknown instruction set 'avx3'"):
        quantised_matmul(activations(1, 64), matrix, "native:avx3")
    missing = next(name for name in ISAS if name not in available_isas())  # x86 has no neon, ARM no AVX
    with pytest.raises(ValueError, match=f"this CPU does not have {missing}"):
        quantised_matmul(activations(1, 64), matrix, f"native:{missing}")
