"""How often each pre-tokenizer piece ("word") occurs in a stream of documents.

Training needs only these counts, so the text itself is never held: memory grows with the number of distinct words.
Beyond a first stretch the counting goes to worker processes, which start afresh ("spawn": threads of this process
cannot be caught half-way). They import the main script again, which costs more than they save on a small corpus.
"""

import itertools
import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from vesalius.core.errors import VesaliusError
from vesalius.tokenizers.pretokenize import cut, pretokenize, replace_surrogates

CHUNK_CHARACTERS = 2**20
CHUNKS_BEFORE_WORKERS = 24
MOST_WORKERS = 4
"""Each takes about a hundred megabytes, and adding up what many of them bring is no faster."""


def count_words(texts: Iterable[str], processes: int | None = None) -> Counter[str]:
    """Occurrences of every piece, counted by `processes` workers: by default one a core, up to MOST_WORKERS.

    Scripts that call this on a large corpus need the usual `if __name__ == "__main__":` around their work.

    >>> count_words(["a cat", "a dog"])["a"]
    2
    """
    processes = processes or min(available_cores(), MOST_WORKERS)
    chunks = chunked(texts, CHUNK_CHARACTERS)
    here = None if processes == 1 else CHUNKS_BEFORE_WORKERS
    counts: Counter[str] = Counter()
    for chunk in itertools.islice(chunks, here):
        counts.update(_count_chunk(chunk))
    _count_in_workers(chunks, processes, counts)
    return counts


def available_cores() -> int:
    """Cores that this process may use, which a container or `taskset` makes fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def chunked(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    """The texts in order in groups of about `size` characters; a text longer than that is cut where no piece is."""
    chunk: list[str] = []
    room = size
    for part in itertools.chain.from_iterable(cut(text, size) for text in texts):
        chunk.append(part)
        room -= len(part)
        if room <= 0:
            yield chunk
            chunk, room = [], size
    if chunk:
        yield chunk


def _count_chunk(chunk: list[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for text in chunk:
        counts.update(pretokenize(replace_surrogates(text)))
    return counts


def _count_in_workers(chunks: Iterable[list[str]], processes: int, counts: Counter[str]) -> None:
    """Adds the counts of all chunks to `counts`; only a few chunks are on their way at any time.

    The pool starts its processes with the first chunk, so none where there is none.
    """
    waiting: deque[Future[Counter[str]]] = deque()
    try:
        with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
            for chunk in chunks:
                waiting.append(pool.submit(_count_chunk, chunk))
                if len(waiting) > processes + 1:
                    counts.update(waiting.popleft().result())
            for result in waiting:
                counts.update(result.result())
    except BrokenProcessPool as error:
        raise VesaliusError(
            "a process that counts words ended early: a script needs `if __name__ == '__main__':` around its work; "
            "where memory is short, count with processes=1"
        ) from error
