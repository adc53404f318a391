"""Compressors as baselines: the streams are real ones, and conditioning is on the training text and nothing else."""

import lzma
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vesalius.foundations.compression import DEFLATE_WINDOW, deflate, gzip_bits_per_byte, xz_bits_per_byte

NOISE = random.Random(0).randbytes(3000)
WORDS = [b"def ", b"return ", b"self.", b"None\n", b"import ", b"value", b"(x)", b":\n    "]


def text(seed: int, words: int) -> bytes:
    return b"".join(random.Random(seed).choices(WORDS, k=words))


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_deflate_is_undone_with_the_training_text(document, training):
    undo = zlib.decompressobj(-zlib.MAX_WBITS, zdict=training)
    assert undo.decompress(deflate(document, training)) + undo.flush() == document


def test_deflate_sees_only_the_end_of_long_training_text():
    noise = random.Random(1).randbytes(DEFLATE_WINDOW)
    assert len(deflate(NOISE, NOISE + noise)) >= len(NOISE)
    assert len(deflate(NOISE, noise[: -len(NOISE)] + NOISE)) < len(NOISE) / 20


def test_gzip_compresses_each_document_by_itself():
    documents = [text(1, 300), text(2, 300), text(1, 300)]
    sizes = [len(zlib.compress(document, level=9, wbits=-15)) for document in documents]
    assert gzip_bits_per_byte(documents) == 8 * sum(sizes) / sum(map(len, documents))


def test_xz_compresses_the_documents_as_one_stream():
    documents = [text(1, 300), text(2, 300)]
    whole = lzma.compress(b"".join(documents), lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 6}])
    empty = lzma.compress(b"", lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 6}])
    assert xz_bits_per_byte(documents) == 8 * (len(whole) - len(empty)) / sum(map(len, documents))


@pytest.mark.parametrize("bits_per_byte", [gzip_bits_per_byte, xz_bits_per_byte])
def test_noise_costs_its_length(bits_per_byte):
    assert 8.0 <= bits_per_byte([NOISE], text(1, 500)) < 8.2


@pytest.mark.parametrize("bits_per_byte", [gzip_bits_per_byte, xz_bits_per_byte])
def test_noise_that_stands_in_the_training_text_costs_almost_nothing(bits_per_byte):
    assert bits_per_byte([NOISE], b"before" + NOISE + b"after") < 0.2


def test_xz_reaches_back_through_all_of_a_training_text_longer_than_its_usual_dictionary():
    filler = bytes(9 * 2**20)
    assert xz_bits_per_byte([NOISE], NOISE + filler) < 0.2


@pytest.mark.parametrize("bits_per_byte", [gzip_bits_per_byte, xz_bits_per_byte])
def test_documents_may_be_a_stream(bits_per_byte):
    documents = [text(3, 200), text(4, 200)]
    assert bits_per_byte(iter(documents), text(5, 200)) == bits_per_byte(documents, text(5, 200))


@pytest.mark.parametrize("bits_per_byte", [gzip_bits_per_byte, xz_bits_per_byte])
def test_documents_without_a_byte_are_refused(bits_per_byte):
    with pytest.raises(ValueError, match="needs some text"):
        bits_per_byte([b""], b"training")
