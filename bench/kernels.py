"""The native kernels, one row each: time, bytes moved, percent of what this machine reads, GFLOP/s of many rows.

    python bench/kernels.py [--threads N] [--quick]

Decoding reads every weight once a token, so one row of activations is judged by bytes per second against the rate at
which this machine reads memory; the products of a whole SmolLM2-135M (96 MB, so that no cache holds them) stand for a
token. Many rows are judged by GFLOP/s against torch's float32 and bfloat16 products. What stands between the products
is taken for one layer of that model, and stays in the caches as it does there; attention for all layers, each with
pages of its own. Figures are minima of repeats: on a shared machine the minimum is what the kernel can do, the median
what the neighbours leave.
"""

import argparse
import ctypes
import time
from collections.abc import Callable, Iterator

import torch

from vesalius.core.hardware import hardware_line, measure_rates
from vesalius.kernels import rope
from vesalius.kernels.block_formats import BlockTensor
from vesalius.kernels.native.interface import available, available_isas, functions, isa_name, threads
from vesalius.kernels.packing import PackedMatrix, pack
from vesalius.kernels.paged_attention import Pages, Segments, paged_attention, quantise_heads
from vesalius.kernels.quantised_matmul import quantised_matmul, quantised_top_k

LAYERS = 30
LAYER_SHAPES = ((960, 576), (576, 576), (3072, 576), (576, 1536))  # q k v joined, o, gate and up joined, down
HEAD_SHAPE = (49152, 576)
WIDE_SHAPE = (4096, 4096)
WIDE_COUNT = 8  # matrices taken in turn, more than the caches hold
PREFILL = 512
HIDDEN, FEED_FORWARD, HEADS, KV_HEADS, HEAD_DIM = 576, 1536, 9, 3, 64
POSITIONS = 32  # of a block of keys and values
Row = tuple[str, float, float, float]  # name, seconds, bytes, floating-point operations


def best_seconds(call: Callable[[], object], budget: float) -> float:
    """The shortest of as many calls as fit into `budget` seconds, at least three."""
    best, end, count = float("inf"), time.perf_counter() + budget, 0
    while count < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        best, count = min(best, time.perf_counter() - start), count + 1
    return best


def random_blocks(format: str, rows: int, columns: int) -> BlockTensor:
    """Normal weights in blocks; beyond 512 rows the blocks repeat, which no kernel notices."""
    some = BlockTensor.quantise(torch.randn(min(rows, 512), columns) / columns**0.5, format)
    return BlockTensor.of(format, some.blocks.repeat(-(-rows // 512), 1)[:rows])


def model_of(tiles: bool | None) -> tuple[list[PackedMatrix], PackedMatrix]:
    """SmolLM2-135M's matrices: a Q4_1 body and a Q8_0 output head."""
    blocks = [random_blocks("q4_1", *shape) for shape in LAYER_SHAPES]
    body = [pack(BlockTensor.of("q4_1", b.blocks.clone()), tiles=tiles) for _ in range(LAYERS) for b in blocks]
    return body, pack(random_blocks("q8_0", *HEAD_SHAPE), tiles=tiles)


def product_rows(matrices: list[PackedMatrix], name: str, impl: str | None, tokens: int, budget: float) -> Row:
    """All matrices once, each with its own width of activations."""
    x = {m.columns: torch.randn(tokens, m.columns) for m in matrices}
    seconds = best_seconds(lambda: [quantised_matmul(x[m.columns], m, impl) for m in matrices], budget)
    operations = sum(2.0 * tokens * m.rows * m.columns for m in matrices)
    return name, seconds, float(sum(m.nbytes for m in matrices)), operations


def decoding(budget: float) -> Iterator[Row]:
    """One token's products of SmolLM2 by every implementation, and a few tokens at once by the best."""
    body, head = model_of(tiles=None)
    native = [f"native:{isa}" for isa in available_isas()]
    for impl in native:
        yield product_rows([*body, head], f"SmolLM2, 1 row, {impl}", impl, 1, budget)
    for tokens in (2, 4, 8, 16, 32) if native else ():
        yield product_rows([*body, head], f"SmolLM2, {tokens} rows, native", "native", tokens, budget)
    x = torch.randn(1, HEAD_SHAPE[1])
    for k in (1, 40) if native else ():
        seconds = best_seconds(lambda k=k: quantised_top_k(x, head, k), budget)
        yield f"output head q8_0, top {k}, native", seconds, head.nbytes, 2.0 * head.rows * head.columns
    del body, head
    body, head = model_of(tiles=False)
    for matrix in (*body, head):
        _ = matrix.torch_form  # made once when a model is opened, not while it runs
    for tokens in (1, 8):
        yield product_rows([*body, head], f"SmolLM2, {tokens} row{'s' * (tokens > 1)}, torch", "torch", tokens, budget)


def formats(budget: float) -> Iterator[Row]:
    """One row through wide matrices of each format."""
    for format in ("q4_0", "q4_1", "q8_0", "q4_k", "q6_k"):
        blocks = random_blocks(format, *WIDE_SHAPE)
        matrices = [pack(BlockTensor.of(format, blocks.blocks.clone())) for _ in range(WIDE_COUNT)]
        for isa in available_isas():
            shape = "×".join(map(str, WIDE_SHAPE))
            yield product_rows(matrices, f"{shape} {format}, 1 row, native:{isa}", f"native:{isa}", 1, budget)


def prefill(budget: float) -> Iterator[Row]:
    """512 tokens through one layer of SmolLM2, and through a wide matrix."""
    layer = [pack(random_blocks("q4_1", *shape)) for shape in LAYER_SHAPES]
    wide = [pack(random_blocks("q4_k", *WIDE_SHAPE))]
    for impl in (*(f"native:{isa}" for isa in available_isas()), "torch", "reference"):
        yield product_rows(layer, f"SmolLM2 layer, {PREFILL} rows, {impl}", impl, PREFILL, budget)
    for impl in (*(f"native:{isa}" for isa in available_isas()[-1:]), "torch", "reference"):
        yield product_rows(wide, f"{WIDE_SHAPE[0]}×{WIDE_SHAPE[1]} q4_k, {PREFILL} rows, {impl}", impl, PREFILL, budget)


def moving(budget: float) -> Iterator[Row]:
    """Packing, unpacking to float32 and gathering of rows; bytes are those read and written."""
    blocks = random_blocks("q4_1", *HEAD_SHAPE)
    packed = pack(blocks)
    ids = torch.randint(0, packed.rows, (512,))
    yield "pack q4_1", best_seconds(lambda: pack(blocks), budget), 2.0 * blocks.nbytes, 0.0
    yield "blocks of q4_1", best_seconds(packed.blocks, budget), 2.0 * blocks.nbytes, 0.0
    floats = 4.0 * packed.rows * packed.columns
    yield "dequantise q4_1", best_seconds(packed.dequantise, budget), packed.nbytes + floats, 0.0
    read = len(ids) * packed.columns * (4 + packed.nbytes / packed.rows / packed.columns)
    yield "gather 512 rows", best_seconds(lambda: packed.gather(ids), budget), read, 0.0


def pages_of(blocks: int, dtype: torch.dtype) -> Pages:
    """One layer's keys and values, drawn."""
    keys, values = (torch.randn(blocks, KV_HEADS, POSITIONS, HEAD_DIM) for _ in range(2))
    if dtype != torch.int8:
        return Pages(keys.to(dtype), values.to(dtype))
    (keys, key_scales), (values, value_scales) = quantise_heads(keys), quantise_heads(values)
    return Pages(keys, values, key_scales, value_scales)


def segments_of(sequences: int, past: int) -> tuple[Segments, int]:
    """One new token of each, whose blocks lie in no order, and how many blocks that takes."""
    each = past // POSITIONS + 1
    order = torch.randperm(sequences * each).view(sequences, each).tolist()
    return Segments([1] * sequences, [past] * sequences, order, torch.device("cpu")), sequences * each


def between_products(budget: float) -> Iterator[Row]:
    """Norm, rotation and gate of a few rows and of many; bytes are floats read and, at one a number, codes written."""
    if not available():
        return
    for rows in (1, 16, PREFILL):
        x, weight, gate, up = (
            torch.randn(*shape) for shape in ((rows, HIDDEN), (HIDDEN,), *[(rows, FEED_FORWARD)] * 2)
        )
        norm = (x.data_ptr(), weight.data_ptr(), rows, HIDDEN, 1e-5, None, threads(), 0)
        seconds = best_seconds(lambda norm=norm: functions().vesalius_norm_quantise(*norm), budget)
        yield f"RMSNorm and rounding, {rows} rows", seconds, 5.0 * x.numel() + weight.nbytes, 4.0 * x.numel()
        gates = (gate.data_ptr(), up.data_ptr(), rows, FEED_FORWARD, None, threads(), 0)
        seconds = best_seconds(lambda gates=gates: functions().vesalius_gate_quantise(*gates), budget)
        yield f"SiLU x gate and rounding, {rows} rows", seconds, 9.0 * gate.numel(), 20.0 * gate.numel()
        for dtype in (torch.float32, torch.bfloat16, torch.int8):
            yield rotation_row(rows, dtype, budget)


def rotation_row(rows: int, dtype: torch.dtype, budget: float) -> Row:
    """Queries and keys turned, keys and values written into pages."""
    (segments, blocks), size = segments_of(rows, 100), HEAD_DIM
    pages = pages_of(blocks, dtype)
    q, k, v = (torch.randn(rows, heads, HEAD_DIM) for heads in (HEADS, KV_HEADS, KV_HEADS))
    cos, sin = rope.angles(torch.full((rows,), 100), rope.frequencies(HEAD_DIM))
    structs = ctypes.byref(pages.struct), ctypes.byref(segments.struct(POSITIONS))
    rest = (cos.data_ptr(), sin.data_ptr(), size, q.data_ptr(), HEADS, k.data_ptr(), v.data_ptr(), threads())
    seconds = best_seconds(lambda: functions().vesalius_turn_and_write(*structs, *rest), budget)
    moved = 2.0 * q.nbytes + 3.0 * k.nbytes + 2 * k.numel() * dtype.itemsize + 2 * cos.nbytes
    return f"rotation and writing, {rows} rows, {str(dtype)[6:]}", seconds, moved, 3.0 * (q.numel() + k.numel())


def attending(budget: float) -> Iterator[Row]:
    """One step's attention of all layers over pages in no order, of one sequence and of sixteen."""
    for sequences, past in ((1, 2000), (16, 500)):
        for dtype in (torch.float32, torch.bfloat16, torch.int8):
            for impl in (*["native"] * available(), "torch"):
                yield attention_row(sequences, past, dtype, impl, budget)


def attention_row(sequences: int, past: int, dtype: torch.dtype, impl: str, budget: float) -> Row:
    segments, blocks = segments_of(sequences, past)
    layers, q = [pages_of(blocks, dtype) for _ in range(LAYERS)], torch.randn(sequences, HEADS, HEAD_DIM)
    seconds = best_seconds(lambda: [paged_attention(q, pages, segments, impl=impl) for pages in layers], budget)
    keys = sequences * (past + 1) * LAYERS
    moved = 2.0 * keys * KV_HEADS * (HEAD_DIM * dtype.itemsize + 4 * (dtype == torch.int8))
    return f"attention, {sequences} at {past}, {str(dtype)[6:]}, {impl}", seconds, moved, 4.0 * keys * HEADS * HEAD_DIM


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, help="threads of torch and of the kernels; default: torch's own choice")
    parser.add_argument("--quick", action="store_true", help="a fifth of the time for each row")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    budget, rates = 0.2 if options.quick else 1.0, measure_rates()
    print(hardware_line())
    print(
        f"limits: read {rates.read / 1e9:.1f} GB/s; float32 product {rates.float32 / 1e9:.0f}, "
        f"bfloat16 product {rates.bfloat16 / 1e9:.0f} GFLOP/s; native kernels: {isa_name() or 'none'}"
    )
    parts = {"decoding": decoding, "between products": between_products, "attention": attending}
    parts |= {"formats": formats, "prefill": prefill, "moving": moving}
    for title, rows in parts.items():
        print(f"\n{title:50s} {'ms':>9s} {'MB':>7s} {'GB/s':>6s} {'of read':>8s} {'GFLOP/s':>8s} {'of f32':>7s}")
        for name, seconds, moved, operations in rows(budget):
            line = f"{name:50s} {seconds * 1e3:9.3f} {moved / 1e6:7.1f} {moved / seconds / 1e9:6.1f} "
            line += f"{moved / seconds / rates.read:8.0%} "
            line += (
                f"{operations / seconds / 1e9:8.0f} {operations / seconds / rates.float32:7.1f}" if operations else ""
            )
            print(line, flush=True)


if __name__ == "__main__":
    main()
