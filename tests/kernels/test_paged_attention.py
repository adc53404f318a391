"""Attention over pages: every implementation equals attention over each sequence's own keys, wherever those lie."""

import ctypes
import itertools
import platform
import subprocess

import pytest
import torch
from torch.nn import functional as F

from vesalius.kernels import attention as plain
from vesalius.kernels import paged_attention as module
from vesalius.kernels import pages as pages_module
from vesalius.kernels.attention import PLAIN, AttentionRule
from vesalius.kernels.native import library
from vesalius.kernels.native.interface import available
from vesalius.kernels.paged_attention import IMPLS, Pages, Segments, paged_attention
from vesalius.kernels.pages import WRITES, gather, quantise_heads, write

NATIVE = pytest.mark.skipif(not available(), reason="no C++ compiler")
FAST = [pytest.param(name, marks=NATIVE if name == "native" else ()) for name in IMPLS if name != "reference"]
DTYPES = [torch.float32, torch.bfloat16, torch.int8]
LEFT_BEHIND = 10**9
TOLERANCE = {"atol": 3e-6, "rtol": 1e-5}

BATCHES = {
    "one token of one sequence": ([1], [0]),
    "one token after many": ([1], [700]),
    "one token of each": ([1, 1, 1, 1, 1], [0, 3, 130, 31, 64]),
    "a prompt beside single tokens": ([1, 1, 90, 1], [40, 5, 20, 200]),
    "two prompts": ([130, 7], [0, 600]),
    "a few of each": ([2, 8, 3, 9], [33, 0, 127, 128]),
    "nothing of some": ([0, 2, 0, 1], [9, 9, 0, 0]),
    "nothing at all": ([0], [4]),
}


def ragged(counts, pasts, *, P=16, heads=(4, 2), E=16, dtype=torch.float32, window=0, latent=0, trees=False, seed=0):
    """q (N, H, E), pages in which blocks lie anywhere and what was not written is NaN, and the segments."""
    generator = torch.Generator().manual_seed(seed)
    H, K = heads
    sizes = [-(-(count + past) // P) for count, past in zip(counts, pasts, strict=True)]
    order = torch.randperm(sum(sizes) + 3, generator=generator).tolist()
    tables = [[order.pop() for _ in range(size)] for size in sizes]
    keys, values = (torch.randn(sum(sizes) + 3, K, P, E, generator=generator) for _ in range(2))
    for table, count, past in zip(tables, counts, pasts, strict=True):
        for at in range(count + past, len(table) * P):
            keys[table[at // P], :, at % P] = values[table[at // P], :, at % P] = torch.nan
    if window:
        for table, past in zip(tables, pasts, strict=True):
            left = max(0, past + 1 - window) // P
            table[:left] = [LEFT_BEHIND] * left
    ancestors = tree(counts, generator) if trees else None
    q = torch.randn(sum(counts), H, E, generator=generator)
    return q, stored(keys, values, dtype, latent), Segments(counts, pasts, tables, q.device, ancestors)


def stored(keys, values, dtype, latent):
    if dtype == torch.int8:
        (keys, key_scales), (values, value_scales) = quantise_heads(keys), quantise_heads(values)
        pages = Pages(keys, values, key_scales, value_scales)
    else:
        pages = Pages(keys.to(dtype), values.to(dtype))
    return Pages(pages.keys, None, pages.key_scales, value_width=latent) if latent else pages


def tree(counts, generator):
    """For each row itself and what its parent reads; parents are drawn among the rows before."""
    ancestors = []
    for count in counts:
        own = []
        for j in range(count):
            parent = int(torch.randint(-1, j, (), generator=generator)) if j else -1
            own.append(1 << j | (own[parent] if parent >= 0 else 0))
        ancestors += own
    return ancestors


def on_threads(count, call):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        return call()
    finally:
        torch.set_num_threads(before)


def assert_equal_to_the_reference(impl, batch, rule=PLAIN, threads=2):
    ours = on_threads(threads, lambda: paged_attention(*batch, rule, impl))
    torch.testing.assert_close(ours, paged_attention(*batch, rule, "reference"), **TOLERANCE)


def test_the_reference_is_each_sequence_alone():
    counts, pasts = BATCHES["a prompt beside single tokens"]
    q, pages, segments = ragged(counts, pasts)
    expected, first = [], 0
    for count, past, table in zip(counts, pasts, segments.tables, strict=True):
        keys, values = (x[table].transpose(0, 1).flatten(1, 2)[:, : past + count] for x in (pages.keys, pages.values))
        mask = torch.ones(count, past + count, dtype=torch.bool).tril(past)
        rows = q[first : first + count].transpose(0, 1)
        expected.append(
            F.scaled_dot_product_attention(rows, *(x.repeat_interleave(2, 0) for x in (keys, values)), mask)
        )
        first += count
    ours = paged_attention(q, pages, segments, impl="reference")
    torch.testing.assert_close(ours, torch.cat(expected, 1).transpose(0, 1), **TOLERANCE)


def test_a_tree_row_reads_as_if_its_ancestors_were_the_text():
    q, pages, segments = ragged([3], [4], P=4)
    chain = Segments([3], [4], segments.tables, q.device, [0b001, 0b010, 0b101])  # the second branches off by itself
    ours = paged_attention(q, pages, chain, impl="reference")
    places = [*range(4), 4, 6]
    keys, values = (
        x[segments.tables[0]].transpose(0, 1).flatten(1, 2)[None, :, places] for x in (pages.keys, pages.values)
    )
    truth = plain.reference(q[2:].transpose(0, 1)[None], keys, values)
    torch.testing.assert_close(ours[2], truth[0, :, 0], **TOLERANCE)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("P", [1, 5, 16, 20, 32, 128])
@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("impl", FAST)
def test_ragged_batches(impl, name, P, threads):
    assert_equal_to_the_reference(impl, ragged(*BATCHES[name], P=P), threads=threads)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", [(3, 3), (6, 2), (8, 1), (30, 1)])
@pytest.mark.parametrize("E", [8, 16, 20, 48, 64, 80, 128, 256])
@pytest.mark.parametrize("impl", FAST)
def test_heads_widths_and_elements(impl, E, heads, dtype):
    batch = ragged([1, 40, 3], [150, 9, 70], P=32, heads=heads, E=E, dtype=dtype)
    assert_equal_to_the_reference(impl, batch)


RULES = {
    "scale": {"scale": 0.4},
    "window": {"window": 20},
    "window of one": {"window": 1},
    "window wider than the text": {"window": 10_000},
    "soft cap": {"softcap": 0.7},
    "slopes": {"slopes": torch.tensor([0.5, 0.25, 0.1, 0.0])},
    "sinks": {"sinks": torch.tensor([0.5, -1.0, 200.0, -200.0])},
}
RULES["everything"] = {name: value for settings in list(RULES.values())[::-1] for name, value in settings.items()}


@pytest.mark.parametrize("trees", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("impl", FAST)
def test_rules(impl, name, dtype, trees):
    rule = AttentionRule(**RULES[name])
    batch = ragged([1, 40, 1, 4], [150, 300, 70, 2], P=8, dtype=dtype, window=rule.window, trees=trees)
    assert_equal_to_the_reference(impl, batch, rule)


@pytest.mark.parametrize("counts", [[63, 1, 5], [1, 1, 1], [9, 16]])
@pytest.mark.parametrize("impl", FAST)
def test_trees(impl, counts):
    pasts = [70, 0, 200][: len(counts)]
    assert_equal_to_the_reference(impl, ragged(counts, pasts, P=32, heads=(6, 2), trees=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("latent", [8, 24, 40])
@pytest.mark.parametrize("impl", FAST)
def test_values_that_are_the_beginning_of_the_keys(impl, latent, dtype):
    batch = ragged([1, 5, 1], [150, 3, 70], heads=(12, 1), E=40, latent=latent, dtype=dtype)
    assert_equal_to_the_reference(impl, batch)


@pytest.mark.parametrize("impl", FAST)
def test_values_of_another_width(impl):
    q, pages, segments = ragged([1, 30], [150, 3], E=32)
    narrow = Pages(pages.keys, pages.values[..., :12].contiguous())
    assert_equal_to_the_reference(impl, (q, narrow, segments))


@pytest.mark.parametrize("impl", FAST)
def test_scores_far_apart(impl):
    q, pages, segments = ragged([1, 20], [500, 100], P=32)
    assert_equal_to_the_reference(impl, (q * 40, pages, segments))


@NATIVE
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_sequence_alone_has_the_same_bits(threads):
    counts, pasts = [1, 90, 5, 1], [700, 20, 64, 3]
    q, pages, segments = ragged(counts, pasts)
    together, first = on_threads(threads, lambda: paged_attention(q, pages, segments, impl="native")), 0
    for count, past, table in zip(counts, pasts, segments.tables, strict=True):
        alone = Segments([count], [past], [table], q.device)
        rows = slice(first, first + count)
        assert torch.equal(paged_attention(q[rows], pages, alone, impl="native"), together[rows])
        first += count


@NATIVE
def test_gradients_go_another_way():
    q, pages, segments = ragged([1, 1], [5, 9])
    q.requires_grad_()
    assert paged_attention(q, pages, segments).requires_grad
    with torch.no_grad():
        ours = paged_attention(q, pages, segments)
    assert torch.equal(ours, paged_attention(q, pages, segments, impl="native"))


@NATIVE
def test_what_the_native_side_does_not_read_goes_another_way():
    q, pages, segments = ragged([1, 1], [5, 9], dtype=torch.float16)
    torch.testing.assert_close(paged_attention(q, pages, segments), paged_attention(q, pages, segments, impl="torch"))
    with pytest.raises(ValueError, match=r"got torch.float32 on cpu over torch.float16 on cpu: take .* 'torch'"):
        paged_attention(q, pages, segments, impl="native")


@NATIVE
def test_a_table_that_is_too_short_is_refused():
    q, pages, segments = ragged([1, 1], [5, 31])
    short = Segments([1, 1], [5, 32], segments.tables, q.device)
    with pytest.raises(ValueError, match="sequence 1 needs 33 positions, got 2 blocks of 16"):
        paged_attention(q, pages, short, impl="native")


@pytest.mark.parametrize("impl", [pytest.param("native", marks=NATIVE), "reference"])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16])
@pytest.mark.parametrize("widths", [(16, 16), (20, 7), (64, 64)])
def test_what_is_written_is_found(widths, dtype, impl):
    if dtype == torch.float16 and impl == "native":
        pytest.skip("the native side knows no float16")
    counts, pasts = [3, 0, 70, 1], [6, 2, 31, 0]
    _, like, segments = ragged(counts, pasts, P=5, E=widths[0], dtype=dtype)
    generator = torch.Generator().manual_seed(3)
    k, v = (torch.randn(sum(counts), 2, width, generator=generator) * 3 for width in widths)
    k[0, 1], v[1, 0] = 0.0, 1e-30
    scales = [None if like.key_scales is None else like.key_scales.clone() for _ in range(2)]
    pages = Pages(like.keys, like.keys[..., : widths[1]].clone(memory_format=torch.contiguous_format), *scales)
    untouched = [x.clone() for x in (pages.keys, pages.values)]
    on_threads(2, lambda: write(pages, segments, k, v, impl))
    blocks, offsets = segments.slots(5)
    for x, storage, scales, before in zip(
        (k, v), (pages.keys, pages.values), (pages.key_scales, pages.value_scales), untouched, strict=True
    ):
        found = storage[blocks, :, offsets]
        if dtype == torch.int8:
            codes, scale = quantise_heads(x)
            assert torch.equal(scales[blocks, :, offsets], scale)
            assert torch.equal(found, codes)
            assert ((found * scale.unsqueeze(-1) - x).abs() <= 0.501 * scale.unsqueeze(-1)).all()
        else:
            assert torch.equal(found, x.to(dtype))
        before[blocks, :, offsets] = found
        assert torch.equal(before.nan_to_num(7), storage.nan_to_num(7))


def test_the_writes_are_those_of_the_attention():
    assert set(WRITES) <= set(IMPLS)


def test_gathered_pages_are_scale_times_code():
    _, pages, segments = ragged([1], [23], P=8, dtype=torch.int8)
    blocks = torch.tensor(segments.tables[0])
    keys, _ = gather(pages, blocks, torch.float32)
    for block, head, place in itertools.product(range(len(blocks)), range(2), range(8)):
        at = (blocks[block], head, place)
        torch.testing.assert_close(keys[head, block * 8 + place], pages.keys[at] * pages.key_scales[at])


@pytest.mark.slow
@NATIVE
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="instruction sets of x86")
@pytest.mark.parametrize("march", ["x86-64", "x86-64-v3"])
def test_compiled_for_other_cpus(march, tmp_path, monkeypatch):
    source, target = library.FOLDER / "paged_attention.cpp", tmp_path / "paged.so"
    flags = (*library.FLAGS, "-fopenmp", f"-march={march}", "-shared")
    subprocess.run([library.find_compiler(), *flags, str(source), "-o", str(target)], check=True)
    compiled = ctypes.CDLL(str(target))
    for name in ("vesalius_paged_write", "vesalius_paged_attention"):
        function, known = getattr(compiled, name), getattr(module.functions(), name)
        function.argtypes, function.restype = known.argtypes, None
    for user in (module, pages_module):
        monkeypatch.setattr(user, "functions", lambda: compiled)
    for dtype, E in itertools.product(DTYPES, (16, 20, 64, 128)):
        assert_equal_to_the_reference("native", ragged([1, 40, 3], [150, 9, 70], P=32, E=E, dtype=dtype))
    test_what_is_written_is_found((20, 7), torch.int8, "native")
