"""Random matrices of quantised blocks: every bit pattern of codes and small scales, half-precision scales of sane size.
Formats that are only read can be made this way too.
"""

import torch

from vesalius.kernels.block_formats import FORMATS, BlockTensor

HALVES = {  # byte offsets of half-precision numbers in a block
    "q4_0": (0,),
    "q4_1": (0, 2),
    "q5_0": (0,),
    "q5_1": (0, 2),
    "q8_0": (0,),
    "q2_k": (80, 82),
    "q3_k": (108,),
    "q4_k": (0, 2),
    "q5_k": (0, 2),
    "q6_k": (208,),
}


def random_blocks(format: str, rows: int, columns: int, seed: int = 0) -> BlockTensor:
    """A (rows, columns) matrix in `format`."""
    generator = torch.Generator().manual_seed(seed)
    kind = FORMATS[format]
    shape = (rows, kind.row_bytes(columns) // kind.block_bytes, kind.block_bytes)
    blocks = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    for at in HALVES[format]:
        half = torch.randn(*shape[:2], 1, generator=generator).mul(0.05).half()
        blocks[..., at : at + 2] = half.view(torch.uint8)
    return BlockTensor.of(format, blocks.flatten(1))
