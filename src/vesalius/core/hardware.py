"""What this machine is and what it can do at best: the line that stands beside every speed figure.

The rates are measured, never looked up: a cloud core is not what its name says. Model FLOPs utilisation (MFU, Chowdhery
et al. 2022, arXiv:2204.02311, appendix B) divides by `matmul_rate`.
"""

import functools
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

if sys.platform != "win32":
    import resource


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Measured on this machine: matrix-product rates in FLOP/s, reading rate in bytes/s."""

    float32: float
    bfloat16: float
    read: float


def matmul_rate(dtype: torch.dtype, device: str = "cpu", size: int = 1024, repeats: int = 20) -> float:
    """FLOP/s of the best of `repeats` products of two random (size, size) matrices."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / _best_seconds(lambda: a @ b, repeats, device)


def read_rate(mebibytes: int = 256, device: str = "cpu") -> float:
    """Bytes/s of a dot product over a buffer larger than the caches."""
    buffer = torch.ones(mebibytes * 2**20 // 4, device=device)
    return buffer.nbytes / _best_seconds(lambda: torch.dot(buffer, buffer), 5, device)


def measure_rates(device: str = "cpu") -> Rates:
    """All three rates; takes about half a second."""
    return Rates(
        float32=matmul_rate(torch.float32, device),
        bfloat16=matmul_rate(torch.bfloat16, device),
        read=read_rate(device=device),
    )


def hardware_line(device: str = "cpu") -> str:
    """One line for reports: processor, cores in use, memory, software."""
    software = f"Python {platform.python_version()}, torch {torch.__version__}"
    if device != "cpu":
        return f"{torch.get_device_module(device).get_device_name()}, {software}"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    units = [unit for unit in ("avx2", "avx512f", "avx512_vnni", "amx_bf16") if unit in _cpu_flags()]
    return (
        f"{_cpu_name()}, {torch.get_num_threads()} threads, {memory:.0f} GiB"
        f"{' (' + ' '.join(units) + ')' if units else ''}, {software}"
    )


def peak_bytes() -> int:
    """The most memory that this process has held at once; 0 where the system does not tell (Windows)."""
    if sys.platform == "win32":
        return 0
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux's ru_maxrss begins at the size of the process that started this one.
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


@functools.cache
def cpu_vendor() -> str:
    """Who made the processor, as it says itself: "GenuineIntel", "AuthenticAMD"; "" where the system does not tell."""
    return _cpuinfo("vendor_id")


def best_device() -> str:
    """The accelerator that torch sees, else "cpu"."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator.type if accelerator is not None else "cpu"


def _best_seconds(call: Callable[[], object], repeats: int, device: str) -> float:
    wait = torch.get_device_module(device).synchronize if device != "cpu" else lambda: None
    best = float("inf")
    for _ in range(repeats + 1):  # the first warms up and is never the best
        start = time.perf_counter()
        call()
        wait()
        best = min(best, time.perf_counter() - start)
    return best


def _cpuinfo(key: str) -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.split(":")[0].strip() == key), "")


def _cpu_name() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpu_flags() -> set[str]:
    return set(_cpuinfo("flags").split())
