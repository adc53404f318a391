"""What general compressors make of a text: the baselines that anyone can check from a shell.

A compressor is a language model that spends -log2 of its probabilities (Shannon 1948; MacKay 2003, chapters 5 and 6):
its bits per byte stand beside a model's. But a model was trained, and a compressor starts empty. To be fair it is
conditioned on the training text: it has just seen that text and may point back into it, and only what the held-out text
costs on top of it is counted. DEFLATE remembers 32 KiB, LZMA as much as its dictionary holds.

Raw streams: headers and checksums say nothing about the text. Sources: RFC 1951 (DEFLATE), RFC 1950 section 2.2 (preset
dictionaries), the .xz file format (LZMA2). Left out: PPM and context mixing, which are n-grams again (ngram.py).
"""

import lzma
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

DEFLATE_WINDOW = 32 * 2**10
LZMA_DICTIONARY = 8 * 2**20  # what `xz -6` takes where the training text does not ask for more


def gzip_bits_per_byte(documents: Iterable[bytes], training: bytes = b"") -> float:
    """Bits per byte of the documents, each compressed by itself behind the end of `training` that DEFLATE can see.

    One document is in memory at a time. ValueError where the documents hold no bytes.
    """
    compressed = original = 0
    for document in documents:
        compressed += len(deflate(document, training))
        original += len(document)
    return _bits_per_byte(compressed, original)


def xz_bits_per_byte(documents: Iterable[bytes], training: bytes = b"") -> float:
    """Bits per byte of the documents one after another behind `training`: the size of all minus the size of `training`.

    The dictionary spans `training`, and a document also sees those before it. Documents are not held in memory; LZMA,
    which runs twice, takes about 25 bytes for each byte of `training`. ValueError where the documents hold no bytes.
    """
    dictionary = max(len(training), LZMA_DICTIONARY)
    with ThreadPoolExecutor(2) as threads:  # lzma releases the interpreter lock, so the two runs share two cores
        first = threads.submit(_lzma_sizes, [training], dictionary)
        second = threads.submit(_lzma_sizes, chain([training], documents), dictionary)
    (compressed_before, before), (compressed_after, after) = first.result(), second.result()
    return _bits_per_byte(compressed_after - compressed_before, after - before)


def deflate(document: bytes, training: bytes = b"") -> bytes:
    """A raw DEFLATE stream at level 9 that may point back into the last 32 KiB of `training`.

    `zlib.decompressobj(-15, zdict=training[-DEFLATE_WINDOW:])` undoes it.
    """
    stream = zlib.compressobj(level=9, wbits=-zlib.MAX_WBITS, zdict=training[-DEFLATE_WINDOW:])
    return stream.compress(document) + stream.flush()


def _lzma_sizes(pieces: Iterable[bytes], dictionary: int) -> tuple[int, int]:
    """Bytes after and before compressing the pieces as one raw LZMA2 stream."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": lzma.PRESET_DEFAULT, "dict_size": dictionary}]
    stream = lzma.LZMACompressor(lzma.FORMAT_RAW, filters=filters)
    compressed = original = 0
    for piece in pieces:
        compressed += len(stream.compress(piece))
        original += len(piece)
    return compressed + len(stream.flush()), original


def _bits_per_byte(compressed: int, original: int) -> float:
    if original == 0:
        raise ValueError("bits per byte needs some text, got documents without a byte")
    return 8 * compressed / original
