"""The GGUF container (ggml, 2023; the specification is docs/gguf.md of ggml), versions 2 and 3, little-endian.

    "GGUF"   version u32   tensors u64   keys u64
    keys     × [ name string, type u32, value ]
    tensors  × [ name string, dimensions u32, sizes u64 × dimensions (columns first), format u32, offset u64 ]
    zeros up to a multiple of the alignment
    data     each tensor at its offset from here, a multiple of the alignment

A string is its length (u64) and that many bytes of UTF-8. An array is a type u32, a length u64 and the elements.
"""

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT_KEY = "general.alignment"
DEFAULT_ALIGNMENT = 32
MOST_DIMENSIONS = 4
MOST_ENTRIES = 1 << 20
"""Keys or tensors in one file: more would only be there to fill the memory of whoever reads it."""
MOST_NAME_BYTES = 63
"""llama.cpp keeps a tensor's name in 64 bytes, with a NUL at the end."""

SCALARS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"}
"""Type of a value -> numpy's name for it; a bool is one byte."""
STRING = 8
ARRAY = 9

FORMAT_IDS = {
    "f32": 0,
    "f16": 1,
    "q4_0": 2,
    "q4_1": 3,
    "q5_0": 6,
    "q5_1": 7,
    "q8_0": 8,
    "q2_k": 10,
    "q3_k": 11,
    "q4_k": 12,
    "q5_k": 13,
    "q6_k": 14,
    "bf16": 30,
    "mxfp4": 39,
}
"""Block format -> its number in a tensor's entry."""

OTHER_FORMATS = {
    9: "q8_1",
    15: "q8_k",
    16: "iq2_xxs",
    17: "iq2_xs",
    18: "iq3_xxs",
    19: "iq1_s",
    20: "iq4_nl",
    21: "iq3_s",
    22: "iq2_s",
    23: "iq4_xs",
    24: "i8",
    25: "i16",
    26: "i32",
    27: "i64",
    28: "f64",
    29: "iq1_m",
    34: "tq1_0",
    35: "tq2_0",
    40: "nvfp4",
}
"""Formats that exist and are not read here: their names make a better message than their numbers."""


def padded(size: int, alignment: int) -> int:
    """The next multiple of `alignment`.

    >>> padded(33, 32)
    64
    """
    return -(-size // alignment) * alignment
