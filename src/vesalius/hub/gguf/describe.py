"""What a GGUF file is, without opening the model: for `vesalius info`."""

import math
from dataclasses import dataclass
from pathlib import Path

from vesalius.hub.gguf.reader import read_gguf
from vesalius.kernels.block_formats import BlockTensor


@dataclass(frozen=True)
class FormatShare:
    """All tensors of one block format together."""

    format: str
    tensors: int
    parameters: int
    nbytes: int

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.nbytes / self.parameters


@dataclass(frozen=True)
class GGUFDescription:
    """`formats` from the one with most bytes to the one with least; `metadata` with lists told by their length."""

    file_bytes: int
    parameters: int
    formats: tuple[FormatShare, ...]
    metadata: dict[str, str]

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """Format, tensors, parameters, megabytes and bits a weight of each format, and of all together."""
        total = FormatShare("all", sum(s.tensors for s in self.formats), self.parameters, self.tensor_bytes)
        return [
            (s.format, str(s.tensors), f"{s.parameters:,}", f"{s.nbytes / 1e6:.1f}", f"{s.bits_per_weight:.2f}")
            for s in (*self.formats, *([total] if self.parameters else []))
        ]

    @property
    def tensor_bytes(self) -> int:
        return sum(share.nbytes for share in self.formats)


def describe_gguf(path: Path | str) -> GGUFDescription:
    """What is in the file. UserError where it cannot be read (see reader.py)."""
    file = read_gguf(path)
    by_format: dict[str, list[BlockTensor]] = {}
    for tensor in file.tensors.values():
        by_format.setdefault(tensor.format, []).append(tensor)
    shares = [_share(format, tensors) for format, tensors in by_format.items()]
    return GGUFDescription(
        file_bytes=Path(path).stat().st_size,
        parameters=sum(share.parameters for share in shares),
        formats=tuple(sorted(shares, key=lambda share: -share.nbytes)),
        metadata={key: _shown(value) for key, value in file.metadata.items()},
    )


def _share(format: str, tensors: list[BlockTensor]) -> FormatShare:
    parameters = sum(math.prod(tensor.shape) for tensor in tensors)
    return FormatShare(format, len(tensors), parameters, sum(tensor.nbytes for tensor in tensors))


def _shown(value: object) -> str:
    """A value in one short printable line."""
    if isinstance(value, list):
        return f"{len(value):,} items"
    text = repr(value) if isinstance(value, str) and not value.isprintable() else str(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
