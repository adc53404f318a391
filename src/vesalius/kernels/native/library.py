"""The native library: all .cpp files of this folder compiled once by the system's C++ compiler, kept in the cache.

Why not torch.utils.cpp_extension: it needs ninja and torch's headers, and takes a minute; these files include nothing
but the standard library and take seconds. Why not built into the wheel: the compiler of the user's machine knows its
CPU, and a machine without one still has the torch paths.

The name of the file holds a hash of sources, flags, compiler and CPU, so a stale library is never loaded and one home
directory may serve different machines. Files compile side by side; the ending of a name says for which instruction set
(`*_avx2.cpp`, see `INSTRUCTION_SETS`), all others are compiled for this CPU. The choice among them is made at run time.

OpenMP: a second runtime beside torch's would bring a second pool of threads, spinning against the first. So the library
is linked to the very libgomp that lies in torch's wheel. g++ is therefore preferred: clang calls another runtime
(libomp), which on Linux is a pool of its own. Every entry takes its number of threads from `torch.get_num_threads()`:
one setting, and a team size that does not change, because libgomp ends and restarts threads when it does.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch  # loaded first: the library then binds to torch's OpenMP runtime, which is in the process already

from vesalius.core.errors import VesaliusError
from vesalius.core.files import atomic_path, cache_dir

if sys.platform != "win32":
    import fcntl

FOLDER = Path(__file__).parent
COMPILERS = ("g++", "c++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-ffp-contract=off", "-w")
INSTRUCTION_SETS = {  # ending of a file's name -> flags
    "avx2": ("-march=x86-64-v3",),
    "avxvnni": ("-march=x86-64-v3", "-mavxvnni"),
    "avx512": ("-march=x86-64-v4", "-mprefer-vector-width=512"),
    "avx512vnni": ("-march=x86-64-v4", "-mavx512vnni", "-mprefer-vector-width=512"),
    "neon": ("-march=armv8.2-a+dotprod+fp16",),
}
KEPT = 4  # libraries in the cache: several machines may share it, and every change of a source makes another
TIMEOUT = 300  # seconds for one call of the compiler; seconds are usual


@functools.cache
def native_library() -> ctypes.CDLL | None:
    """The compiled library, or None where it cannot be built: no compiler, or $VESALIUS_NATIVE is "off".

    The reason is told once, in one line on stderr; callers then take their torch path. $CXX names the compiler to use.
    """
    if os.environ.get("VESALIUS_NATIVE", "").lower() in ("0", "off"):
        return None
    try:
        return ctypes.CDLL(str(build(cache_dir() / "native")))
    except (VesaliusError, OSError) as error:
        print(f"vesalius: no native kernels, slower torch paths are used: {error}", file=sys.stderr)
        return None


def build(folder: Path) -> Path:
    """The library in `folder`, compiled if it is not there yet. Several processes at once compile it once.

    VesaliusError where no compiler is found or it fails.
    """
    compiler = find_compiler()
    library = folder / f"vesalius-{fingerprint(compiler)}.so"
    if library.exists():
        return library
    with _locked(folder / "build.lock"):
        if not library.exists():  # another process may have built it while this one waited
            _compile(compiler, library)
            _remove_old(folder)
    return library


def find_compiler() -> str:
    """Path of $CXX, else of the first known compiler. VesaliusError where there is none."""
    named = os.environ.get("CXX")
    for name in (named,) if named else COMPILERS:
        if path := shutil.which(name):
            return path
    raise VesaliusError(
        f"no C++ compiler ({named or ', '.join(COMPILERS)}): install one (Debian: apt install g++) or set CXX"
    )


def fingerprint(compiler: str) -> str:
    """Hash of all that decides what the library holds: sources, flags, compiler, CPU and OpenMP runtime."""
    digest = hashlib.sha256()
    for path in sorted([*FOLDER.glob("*.cpp"), *FOLDER.glob("*.h")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    version = _run([compiler, "--version"])
    for part in (compiler, version, FLAGS, sorted(INSTRUCTION_SETS.items()), _link_flags(compiler), _cpu()):
        digest.update(repr(part).encode() + b"\0")
    return digest.hexdigest()[:16]


def sources() -> list[Path]:
    """The files that this kind of machine compiles."""
    foreign = {"neon"} if _is_x86() else set(INSTRUCTION_SETS) - {"neon"}
    if platform.machine().lower() not in ("x86_64", "amd64", "aarch64", "arm64"):
        foreign = set(INSTRUCTION_SETS)
    return [path for path in sorted(FOLDER.glob("*.cpp")) if _instruction_set(path) not in foreign]


def _compile(compiler: str, library: Path) -> None:
    """Compiles the files side by side, links them and puts the library in its place in one step."""
    with tempfile.TemporaryDirectory() as scratch:

        def compile_one(source: Path) -> str:
            target = str(Path(scratch) / f"{source.stem}.o")
            _run([compiler, *FLAGS, *_openmp_flags(), *_machine_flags(source), "-c", str(source), "-o", target])
            return target

        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            objects = list(pool.map(compile_one, sources()))
        with atomic_path(library) as target:
            _run([compiler, "-shared", *objects, *_link_flags(compiler), "-o", str(target)])


def _remove_old(folder: Path) -> None:
    """Leaves the libraries that were built last. A process that has an older one open keeps it on Unix; where it cannot
    be removed it stays."""
    with contextlib.suppress(OSError):
        built = sorted(folder.glob("vesalius-*.so"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in built[KEPT:]:
            with contextlib.suppress(OSError):
                path.unlink()


def _instruction_set(source: Path) -> str:
    return source.stem.rpartition("_")[2]


def _machine_flags(source: Path) -> tuple[str, ...]:
    native = ("-march=native",) if _is_x86() else ("-mcpu=native",)
    return INSTRUCTION_SETS.get(_instruction_set(source), native)


def _openmp_flags() -> tuple[str, ...]:
    return ("-Xpreprocessor", "-fopenmp") if sys.platform == "darwin" else ("-fopenmp",)


def _link_flags(compiler: str) -> tuple[str, ...]:
    """Links torch's own OpenMP runtime by its path; a torch built against the system's has none beside it."""
    clang = "clang" in _run([compiler, "--version"]).lower()
    name = "libomp*.dylib" if sys.platform == "darwin" else "libgomp*.so*"
    bundled = sorted((Path(torch.__file__).parent / "lib").glob(name))
    if bundled and not (clang and sys.platform != "darwin"):
        return (str(bundled[0]), f"-Wl,-rpath,{bundled[0].parent}")
    return ("-fopenmp",)


def _is_x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64")


def _cpu() -> str:
    """What the compiler's "native" depends on: architecture, model and instruction sets of this CPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    wanted = ("model name", "flags", "Features", "CPU part")
    told = [next((line for line in lines if line.startswith(key)), "") for key in wanted]
    return "\n".join([platform.machine(), platform.processor(), *told])


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on `path`; released also when the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        if sys.platform != "win32":
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run(command: list[str]) -> str:
    """Output of a command. VesaliusError with the first line that names an error where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VesaliusError(f"{command[0]} could not be run ({error})") from error
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).splitlines()
        told = next((line for line in lines if "error" in line), lines[0] if lines else "no message")
        raise VesaliusError(f"{Path(command[0]).name} failed: {told.strip()}")
    return done.stdout
