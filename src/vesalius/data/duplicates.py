"""Which texts came before: a set of 64-bit hashes that costs 8 bytes a text, where a Python set costs about 70.

Hashes are kept in sorted runs whose sizes at least halve from one to the next, as in a log-structured merge tree
(O'Neil et al. 1996): a run is merged with a newer one that has grown to half its size, so there are only log n of them.
Two different texts among ten million share a hash with probability 3 · 10⁻⁶, and then one of them is lost.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class SeenTexts:
    """Remembers texts by their hash."""

    def __init__(self) -> None:
        self._runs: list[NDArray[np.uint64]] = []

    def add(self, texts: Sequence[str]) -> list[bool]:
        """For every text in order, whether it is new: neither in an earlier call nor earlier in this one.

        >>> SeenTexts().add(["a", "b", "a"])
        [True, True, False]
        """
        hashes = np.array([_hash(text) for text in texts], dtype=np.uint64)
        first = np.zeros(len(hashes), dtype=bool)
        first[np.unique(hashes, return_index=True)[1]] = True
        for run in self._runs:
            first &= ~_contains(run, hashes)
        self._keep(np.sort(hashes[first]))
        return first.tolist()

    def _keep(self, run: NDArray[np.uint64]) -> None:
        while self._runs and len(self._runs[-1]) < 2 * len(run):
            run = np.sort(np.concatenate([self._runs.pop(), run]))
        self._runs.append(run)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "big")


def _contains(run: NDArray[np.uint64], hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
    places = np.searchsorted(run, hashes)
    return (
        (places < len(run)) & (run[np.minimum(places, len(run) - 1)] == hashes)
        if len(run)
        else np.zeros(len(hashes), bool)
    )
