"""Which tensors are pages of the file that a model is opened from, and giving pages back that have been read.

The operating system would drop them by itself when memory runs short; until then they count as this process's memory
beside whatever was made of them, so that opening a model would take twice its size.
"""

from bisect import bisect_right

from torch import Tensor

from vesalius.core.mapping import let_go, private_files


class MappedPages:
    """What is mapped at the time when this is made. Where the system does not tell (elsewhere than on Linux), nothing
    is."""

    def __init__(self) -> None:
        self._files = sorted(private_files())

    def hold(self, tensor: Tensor) -> bool:
        """Whether a tensor lies in a file, and not in memory of its own."""
        at = bisect_right(self._files, (tensor.data_ptr(), 1 << 64)) - 1
        return at >= 0 and tensor.data_ptr() < self._files[at][1]

    def drop(self, tensor: Tensor) -> None:
        """Frees the pages under a tensor that nobody wrote to; touched again, they are read again. Nothing for one that
        lies in memory (rows in another order are a copy)."""
        if self.hold(tensor):
            let_go(tensor)
