"""How many threads compute: one setting for torch, the native kernels, which ask torch, and the tokenizers.

By default torch takes as many as the machine has physical cores. All three read variables of the environment when they
are first imported, so the setting is written there before, and processes that are started later have it too.
"""

import os

from vesalius.core.errors import UserError

VARIABLE = "VESALIUS_THREADS"

READ = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
"""By torch, by its library of products, and by the tokenizers."""


def set_threads(flag: str | None) -> None:
    """Takes what --threads says, or else VESALIUS_THREADS; does nothing where neither says anything. To be called
    before torch is imported. UserError for what is no number of threads, or more than there are processors: threads
    that share one wait for each other.
    """
    name, text = ("--threads", flag) if flag is not None else (VARIABLE, os.environ.get(VARIABLE, ""))
    if not text and flag is None:
        return
    most = usable_processors()
    if len(text) > 9 or not text.isascii() or not text.isdigit() or not 1 <= int(text) <= most:
        raise UserError(f"{name} is {text[:40]!r}, expected a whole number from 1 to {most}, the processors there are")
    os.environ.update(dict.fromkeys(READ, str(int(text))))


def usable_processors() -> int:
    """Logical processors that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1
