"""What all modules with quantised weights share: packed (kernels/packing.py) and frozen, and saved as they were stored.

Gradients flow through to what comes before, so adapters can be trained around them. A state_dict holds the blocks as
GGUF stores them, under `blocks`, whatever the packing of this machine is.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vesalius.compress.packed_module import PackedModule
from vesalius.kernels.block_formats import BlockTensor
from vesalius.kernels.packing import PackedMatrix


class QuantisedModule(PackedModule):
    """What holds quantised weights in place of float ones: their format and blocks, and how they are saved."""

    @property
    def format(self) -> str:
        """Name of the block format, for example "q4_1"."""
        raise NotImplementedError

    @property
    def packed(self) -> tuple[PackedMatrix, ...]:
        """The matrices that it multiplies by."""
        raise NotImplementedError

    def hold(self, matrices: tuple[PackedMatrix, ...]) -> None:
        """Takes the same matrices, lying elsewhere, in place of its `packed` ones."""
        raise NotImplementedError

    def blocks(self) -> BlockTensor:
        """The blocks that were packed, bit for bit, for export."""
        raise NotImplementedError

    def pack(self, blocks: BlockTensor) -> None:
        """Takes these blocks, of the same shape and format, in place of its own."""
        raise NotImplementedError

    def dequantise(self) -> Tensor:
        """The weights as float32 of `shape`, freshly made."""
        return self.blocks().dequantise()

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "blocks"] = self.blocks().blocks

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        name = prefix + "blocks"
        rest = {key: value for key, value in state_dict.items() if key != name}
        super()._load_from_state_dict(rest, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        if name not in state_dict:
            missing_keys.append(name)
            return
        try:
            self.pack(BlockTensor(self.format, self.shape, state_dict[name]))
        except ValueError as error:
            error_msgs.append(f"{name}: {error}")
