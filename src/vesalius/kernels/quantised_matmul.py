"""Products with block-quantised matrices: x (…, columns) times the matrix, transposed -> (…, rows) float32.

    reference   the matrix in float32, some rows at a time: the truth that the others approximate
    torch       torch's int4 product or bfloat16 weights (kernels/torch_forms.py): for a machine without a compiler
    native      activations as int8 with a scale for 16 columns, integer products within 32 (native/quantised.h)

Why integers: decoding reads every weight once a token, so the limit is how fast memory is read, and turning nibbles
into floats takes longer than that. int8 activations (as in LLM.int8(), Dettmers et al. 2022, arXiv:2208.07339, here per
16 instead of per row) make a product one instruction for 64 weights. Their error: at most half a step, max|x| / 254,
for each activation of a group, so |error of y| ≤ Σ_groups max|x| / 254 · Σ|w|; as roundings are independent, it is
usually far smaller. A group with an infinite or NaN activation gives inf or NaN, as a float product does.

The matrix is frozen; gradients flow to x, through the float32 matrix (the straight-through view of the rounding), so
that adapters beside or before a quantised layer can be trained.
"""

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor

from vesalius.core.errors import nearest
from vesalius.kernels.frozen_product import by_rows, frozen_product
from vesalius.kernels.native.interface import ISAS, functions, isa_name, threads
from vesalius.kernels.packing import PackedMatrix, pack

__all__ = ["IMPLS", "PackedMatrix", "pack", "quantised_matmul", "quantised_top_k", "reference"]

PANEL = 8  # activation rows that the native top-k takes at a time


def reference(x: Tensor, matrix: PackedMatrix) -> Tensor:
    """x (…, columns) any float dtype -> (…, rows) float32."""
    return by_rows(x.float(), matrix)


def by_torch(x: Tensor, matrix: PackedMatrix) -> Tensor:
    """The same as `reference` to the accuracy of bfloat16."""
    return matrix.torch_form.product(x.reshape(-1, matrix.columns)).view(*x.shape[:-1], matrix.rows)


def native(x: Tensor, matrix: PackedMatrix, isa: int = 0) -> Tensor:
    """The same as `reference` but for the rounding of activations to int8. The matrix must be packed in tiles.

    isa: a number of native.interface.ISAS that this CPU has; 0 is the best.
    """
    if not x.is_cpu:
        raise ValueError(f"quantised products run on the CPU, got x on {x.device}: move it there")
    rows = x.reshape(-1, matrix.columns).to(torch.float32).contiguous()
    out = torch.empty(len(rows), matrix.rows)
    functions().vesalius_product(
        ctypes.byref(matrix.struct()),
        rows.data_ptr(),
        matrix.columns,
        len(rows),
        out.data_ptr(),
        matrix.rows,
        threads(),
        isa,
    )
    return out.view(*x.shape[:-1], matrix.rows)


IMPLS: dict[str, Callable[[Tensor, PackedMatrix], Tensor]] = {
    "reference": reference,
    "torch": by_torch,
    "native": native,
}


def quantised_matmul(x: Tensor, matrix: PackedMatrix, impl: str | None = None) -> Tensor:
    """x (…, columns) any float dtype -> (…, rows) float32, by the implementation named, or else the fastest there is:
    native for a matrix packed in tiles, torch otherwise.

    impl: a name of IMPLS, or "native:" and a name of native.interface.ISAS, for example "native:avx2". ValueError where
    the widths differ, the name is unknown, or this CPU lacks the instruction set.
    """
    if x.shape[-1] != matrix.columns:
        raise ValueError(f"x must be (…, {matrix.columns}), got {tuple(x.shape)}")
    if impl is None and not (x.requires_grad and torch.is_grad_enabled()):
        # The way of every decoding step: nothing to look up, nothing to record.
        return native(x, matrix) if matrix.tiles is not None else by_torch(x, matrix)
    return frozen_product(x, matrix, _implementation(matrix, impl))


def quantised_top_k(x: Tensor, matrix: PackedMatrix, k: int, impl: str | None = None) -> tuple[Tensor, Tensor]:
    """The k largest entries of each row of `quantised_matmul`: x (…, columns) -> values float32 and ids int64, (…, k),
    largest first, of equal ones the lower id first. The native implementation never writes the whole product, which for
    an output head is the vocabulary. No gradient. ValueError as there, and unless 1 ≤ k ≤ rows.
    """
    if not 1 <= k <= matrix.rows:
        raise ValueError(f"k must be 1 to {matrix.rows}, got {k}")
    name = impl or ("native" if matrix.tiles is not None else "torch")
    if not name.startswith("native"):
        values, ids = quantised_matmul(x.detach(), matrix, name).sort(dim=-1, descending=True, stable=True)
        return values[..., :k].contiguous(), ids[..., :k].contiguous()
    if x.shape[-1] != matrix.columns:
        raise ValueError(f"x must be (…, {matrix.columns}), got {tuple(x.shape)}")
    rows = x.detach().reshape(-1, matrix.columns).to(torch.float32).contiguous()
    values, ids = torch.empty(len(rows), k), torch.empty(len(rows), k, dtype=torch.int64)
    struct, isa = matrix.struct(), _isa(name)
    for first in range(0, len(rows), PANEL):
        some = rows[first : first + PANEL]
        addresses = (values[first:].data_ptr(), ids[first:].data_ptr())
        functions().vesalius_product_top(
            ctypes.byref(struct), some.data_ptr(), matrix.columns, len(some), k, *addresses, threads(), isa
        )
    return values.view(*x.shape[:-1], k), ids.view(*x.shape[:-1], k)


def _implementation(matrix: PackedMatrix, impl: str | None) -> Callable[[Tensor, PackedMatrix], Tensor]:
    name = impl or ("native" if matrix.tiles is not None else "torch")
    if name.startswith("native"):
        if matrix.tiles is None:
            raise ValueError(
                f"{name} needs a matrix packed in tiles, got stored blocks: pack it with the native library"
            )
        isa = _isa(name)
        return lambda x, matrix: native(x, matrix, isa)
    if name not in IMPLS:
        raise ValueError(f"unknown implementation {name!r}, {nearest(name, IMPLS)}")
    return IMPLS[name]


def _isa(name: str) -> int:
    """0 for "native", the number of the instruction set for "native:avx2" and the like."""
    _, colon, wanted = name.partition(":")
    if not colon:
        return 0
    if wanted not in ISAS:
        raise ValueError(f"unknown instruction set {wanted!r}, {nearest(wanted, ISAS)}")
    if isa_name(ISAS[wanted]) is None:
        raise ValueError(f"this CPU does not have {wanted}: leave it to the automatic choice")
    return ISAS[wanted]
