"""Giving the pages of a mapped file back once what was in them has been repacked.

The operating system would drop them by itself when memory runs short; until then they count as this process's memory
beside the copy, so that opening a model would take twice its size.
"""

import ctypes
import mmap
import sys
from collections.abc import Iterable

from torch import Tensor


class MappedPages:
    """The pages of the mapped file that some tensors are views of."""

    def __init__(self, views: Iterable[Tensor]) -> None:
        self._storages = {view.untyped_storage().data_ptr() for view in views}

    def drop(self, tensor: Tensor) -> None:
        """Frees the pages under a view of the file that nobody wrote to; touched again, they are read again. For other
        tensors (rows in another order are a copy), and elsewhere than on Linux, it does nothing.
        """
        if sys.platform != "linux" or tensor.untyped_storage().data_ptr() not in self._storages:
            return
        start, end = tensor.data_ptr(), tensor.data_ptr() + tensor.numel() * tensor.element_size()
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        length = end // mmap.PAGESIZE * mmap.PAGESIZE - first
        if length > 0:
            ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), mmap.MADV_DONTNEED)
