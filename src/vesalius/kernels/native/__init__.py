"""Native CPU kernels: every .cpp file of this folder, compiled once by the system's compiler into one library."""

from vesalius.kernels.native.library import native_library

__all__ = ["native_library"]
