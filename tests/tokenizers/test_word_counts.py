import doctest
import itertools
import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import pytest

from vesalius.core.errors import VesaliusError
from vesalius.tokenizers import word_counts
from vesalius.tokenizers.pretokenize import pretokenize
from vesalius.tokenizers.word_counts import chunked, count_words


def test_counts_every_piece_of_every_text(documents):
    assert count_words(documents) == Counter(piece for text in documents for piece in pretokenize(text))


def test_workers_count_the_same(documents, monkeypatch):
    alone = count_words(documents, processes=1)
    monkeypatch.setattr(word_counts, "CHUNK_CHARACTERS", 10_000)
    monkeypatch.setattr(word_counts, "CHUNKS_BEFORE_WORKERS", 1)
    assert count_words(documents, processes=2) == alone


def test_one_process_starts_no_workers(documents, monkeypatch):
    monkeypatch.setattr(word_counts, "CHUNK_CHARACTERS", 10)
    monkeypatch.setattr(word_counts, "CHUNKS_BEFORE_WORKERS", 0)
    monkeypatch.setattr(ProcessPoolExecutor, "submit", lambda *_: pytest.fail("a worker was started"))
    assert count_words(documents[-2:], processes=1)


def test_a_worker_that_dies_is_told(monkeypatch):
    exit_status = 9
    monkeypatch.setattr(word_counts, "CHUNKS_BEFORE_WORKERS", 0)
    monkeypatch.setattr(word_counts, "chunked", lambda texts, size: iter([exit_status]))
    monkeypatch.setattr(word_counts, "_count_chunk", os._exit)
    with pytest.raises(VesaliusError, match="a process that counts words ended early"):
        count_words(["text"], processes=2)


def test_a_stream_is_read_no_further_than_needed():
    read = []
    stream = (read.append(i) or "word\n" * 10 for i in itertools.count())
    first = next(chunked(stream, 100))
    assert first == ["word\n" * 10] * 2
    assert read == [0, 1]


def test_a_long_text_is_cut():
    chunks = list(chunked(["word\n" * 1000], 100))
    assert "".join(itertools.chain.from_iterable(chunks)) == "word\n" * 1000
    assert max(len(part) for chunk in chunks for part in chunk) <= 100


def test_lone_surrogates_are_counted_as_replacement_characters():
    assert count_words(["\udcff"]) == {"\ufffd": 1}


def test_examples_in_docstrings():
    assert doctest.testmod(word_counts).failed == 0
