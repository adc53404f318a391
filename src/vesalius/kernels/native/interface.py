"""What Python calls of the native library, with types: the C side is at the end of packing.cpp, paged_attention.cpp and
decoder.cpp, and in quantised.cpp and parts.cpp.
"""

import ctypes
import functools
from collections.abc import Mapping

import torch

from vesalius.kernels.native.library import native_library

ISAS: Mapping[str, int] = {"portable": 1, "avx2": 2, "avxvnni": 3, "avx512": 4, "avx512vnni": 5, "neon": 6}
"""Instruction sets by the numbers of quantised.h; 0 is the best that this CPU has."""

FORMAT_NUMBERS: Mapping[str, int] = {
    name: number
    for number, name in enumerate(("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k"))
}
"""Formats that the native kernels multiply with, by the numbers of quantised.h."""

ELEMENTS: Mapping[torch.dtype, int] = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
"""What pages of keys and values may hold, by the numbers of paged_attention.h."""


class MatrixStruct(ctypes.Structure):
    """PackedMatrix of quantised.h."""

    _fields_ = (
        ("format", ctypes.c_int32),
        ("rows", ctypes.c_int32),
        ("columns", ctypes.c_int64),
        ("codes", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
    )


class PagesStruct(ctypes.Structure):
    """Pages of paged_attention.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("keys", "values", "key_scales", "value_scales")),
        *((name, ctypes.c_int32) for name in ("element", "kv_heads", "positions", "key_width", "value_width")),
    )


class SegmentsStruct(ctypes.Structure):
    """Segments of paged_attention.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("counts", "pasts", "starts", "tables", "ancestors")),
        *((name, ctypes.c_int32) for name in ("sequences", "rows")),
    )


class RuleStruct(ctypes.Structure):
    """Rule of paged_attention.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("slopes", "sinks")),
        *((name, ctypes.c_float) for name in ("scale", "softcap")),
        ("window", ctypes.c_int32),
    )


class DecoderLayerStruct(ctypes.Structure):
    """DecoderLayer of decoder.cpp."""

    _fields_ = (
        *((name, MatrixStruct) for name in ("q", "k", "v", "o", "gate", "up", "down")),
        *((name, ctypes.c_void_p) for name in ("input_norm", "post_norm", "q_norm", "k_norm")),
        *((name, ctypes.c_void_p) for name in ("q_bias", "k_bias", "v_bias", "o_bias")),
        ("rule", RuleStruct),
        *((name, ctypes.c_int32) for name in ("hidden", "heads", "kv_heads", "head_dim", "intermediate", "angles")),
        *((name, ctypes.c_float) for name in ("eps", "residual")),
    )


class AnglesStruct(ctypes.Structure):
    """Angles of decoder.cpp."""

    _fields_ = (("cos", ctypes.c_void_p), ("sin", ctypes.c_void_p), ("size", ctypes.c_int64))


_MATRIX, _POINTER = ctypes.POINTER(MatrixStruct), ctypes.c_void_p
_INT, _LONG = ctypes.c_int, ctypes.c_int64
_SIGNATURES: Mapping[str, tuple[type, ...]] = {
    "vesalius_pack": (_MATRIX, _POINTER, _INT),
    "vesalius_unpack": (_MATRIX, _POINTER, _INT),
    "vesalius_dequantise": (_MATRIX, _INT, _INT, _POINTER, _INT),
    "vesalius_gather": (_MATRIX, _POINTER, _LONG, _POINTER, _INT),
    "vesalius_product": (_MATRIX, _POINTER, _LONG, _LONG, _POINTER, _LONG, _INT, _INT),
    "vesalius_paged_write": (_POINTER, _POINTER, _POINTER, _POINTER, _INT),
    "vesalius_paged_attention": (_POINTER, _POINTER, _POINTER, _POINTER, _INT, _POINTER, _INT),
    "vesalius_norm_quantise": (_POINTER, _POINTER, _INT, _LONG, ctypes.c_float, _POINTER, _INT, _INT),
    "vesalius_gate_quantise": (_POINTER, _POINTER, _INT, _LONG, _POINTER, _INT, _INT),
    "vesalius_turn_and_write": (*[_POINTER] * 4, _INT, _POINTER, _INT, _POINTER, _POINTER, _INT),
    "vesalius_decoder_layers": (_POINTER, _POINTER, _INT, _POINTER, _POINTER, _POINTER, _INT, _INT),
    "vesalius_product_top": (_MATRIX, _POINTER, _LONG, _INT, _INT, _POINTER, _POINTER, _INT, _INT),
}


@functools.cache
def available() -> bool:
    """Whether the native library can be had on this machine."""
    return native_library() is not None


@functools.cache
def functions() -> ctypes.CDLL:
    """The native library with the signatures above set. RuntimeError where there is none, see `available`."""
    library = native_library()
    if library is None:
        raise RuntimeError("the native library is not there: check `available()` first and take the torch path")
    for name, arguments in _SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, None
    library.vesalius_isa_name.argtypes, library.vesalius_isa_name.restype = (_INT,), ctypes.c_char_p
    return library


def isa_name(isa: int = 0) -> str | None:
    """The name of the kernels that `isa` means on this CPU, None where it lacks them or there is no library."""
    name = functions().vesalius_isa_name(isa) if available() else None
    return name.decode() if name else None


def available_isas() -> list[str]:
    """The instruction sets that can be asked for by name on this machine; empty without the library."""
    return [name for name, number in ISAS.items() if isa_name(number) is not None]


def threads() -> int:
    """The one setting of threads: torch's."""
    return torch.get_num_threads()
