"""Documents to token shards (see shards.py for the files), as a stream and in parallel.

Documents travel in chunks of about a megabyte of text. A chunk is cut into slices that the tokenizer encodes on all
cores, so memory follows the chunk and not the corpus, and one huge document is encoded in parallel too. A slice ends
after a line end that no white space follows: there the pre-tokenizer splits in any case, so the ids are those of the
whole document (a line of more than a slice is cut where it must be, and only its seam may differ).

A text that came before is left out, exactly equal ones only: a copy on both sides of the split would be a validation
document that was trained on. How many is in the index.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeVar

import numpy as np

from vesalius.core.errors import UserError
from vesalius.core.files import atomic_path, write_json
from vesalius.data.document import Document
from vesalius.data.duplicates import SeenTexts
from vesalius.data.shards import Ids, ShardIndex, SplitCounts, TextEncoder
from vesalius.data.split import Split, split_documents

_CHUNK = 2**20  # characters encoded together
_SLICE = 2**15  # characters encoded at once by one core
_ITEM_COST = 64  # what a document weighs besides its characters
_SHARD_TOKENS = 2**28

T = TypeVar("T")


def write_shards(
    documents: Iterable[Document],
    tokenizer: TextEncoder,
    directory: Path | str,
    *,
    validation_fraction: float,
    specs: Sequence[str] = (),
    shard_tokens: int = _SHARD_TOKENS,
    on_progress: Callable[[int], None] | None = None,
) -> ShardIndex:
    """Encodes the documents into `directory`, which appears, or is replaced, when everything in it is complete.

    `specs` are kept in the index; a shard is closed when it has `shard_tokens` tokens; `on_progress(bytes)` is called
    with the UTF-8 bytes of text read so far.
    UserError where validation_fraction is not inside 0 … 1 or leaves one side empty; VesaliusError on a full disk.
    """
    pairs = split_documents(documents, validation_fraction)
    with atomic_path(directory) as scratch, _CorpusWriter(scratch, tokenizer, shard_tokens) as corpus:
        corpus.write_all(pairs, on_progress)
        return corpus.finish(list(specs), validation_fraction)


def write_held_out(
    documents: Iterable[Document], tokenizer: TextEncoder, directory: Path | str, *, specs: Sequence[str] = ()
) -> ShardIndex:
    """Like `write_shards`, with every document on the validation side: text to measure on and not to train on."""
    pairs: Iterator[tuple[Split, Document]] = (("validation", document) for document in documents)
    with atomic_path(directory) as scratch, _CorpusWriter(scratch, tokenizer, _SHARD_TOKENS) as corpus:
        corpus.write_all(pairs, None)
        return corpus.finish(list(specs), validation_fraction=1.0)


class _CorpusWriter:
    """Encodes chunks of documents and puts each on its side."""

    def __init__(self, directory: Path, tokenizer: TextEncoder, shard_tokens: int) -> None:
        if tokenizer.document_boundary is None:
            raise UserError(
                "the tokenizer has no token for the document boundary: give it a bos_token, an eos_token or an "
                "<|endoftext|>"
            )
        directory.mkdir()
        self._directory, self._bytes_read = directory, 0
        self._tokenizer, self._boundary = tokenizer, tokenizer.document_boundary
        self._dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32).newbyteorder("<")
        self._seen, self._duplicates = SeenTexts(), 0
        self._sides: dict[Split, _SplitWriter] = {
            "train": _SplitWriter(directory, "train", shard_tokens),
            "validation": _SplitWriter(directory, "validation", shard_tokens),
        }

    def write_all(self, pairs: Iterable[tuple[Split, Document]], on_progress: Callable[[int], None] | None) -> None:
        for chunk in _grouped(pairs, lambda pair: len(pair[1].text)):
            self._write(chunk)
            if on_progress is not None:
                on_progress(self._bytes_read)

    def _write(self, chunk: list[tuple[Split, Document]]) -> None:
        new = self._seen.add([document.text for _, document in chunk])
        self._duplicates += new.count(False)
        kept = [pair for pair, is_new in zip(chunk, new, strict=True) if is_new]
        boundary = np.array([self._boundary], self._dtype)
        texts = encode_texts([document.text for _, document in kept], self._tokenizer, self._dtype)
        for (side, document), ids in zip(kept, texts, strict=True):
            self._sides[side].write(np.concatenate([boundary, ids]), _bytes(document))
        self._bytes_read += sum(_bytes(document) for _, document in chunk)

    def finish(self, specs: list[str], validation_fraction: float) -> ShardIndex:
        """Writes the index, last. UserError where a side that should have documents has none."""
        self.__exit__()
        index = self._index(specs, validation_fraction)
        write_json(self._directory / "index.json", index.to_dict())
        return index

    def _index(self, specs: list[str], validation_fraction: float) -> ShardIndex:
        train, validation = (self._sides[side].counts() for side in ("train", "validation"))
        if not validation.documents or (not train.documents and validation_fraction < 1):
            raise UserError(
                f"validation_fraction = {validation_fraction} gives {train.documents} documents to training and "
                f"{validation.documents} to validation, expected some on both sides: change it or add documents"
            )
        return ShardIndex(
            specs=specs,
            tokenizer=self._tokenizer.fingerprint,
            vocab_size=self._tokenizer.vocab_size,
            boundary=self._boundary,
            dtype=self._dtype.name,
            validation_fraction=validation_fraction,
            duplicates=self._duplicates,
            train=train,
            validation=validation,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for side in self._sides.values():
            side.close()


class _SplitWriter:
    """Appends documents to the files of one split; a new shard begins between documents."""

    def __init__(self, directory: Path, split: Split, shard_tokens: int) -> None:
        self._directory, self._split, self._shard_tokens = directory, split, shard_tokens
        self._offsets, self._bytes = self._open("offsets"), self._open("bytes")
        self._shard = self._open("00000")
        self._files = [0]
        self._n_documents = self._n_bytes = 0
        self._offsets.write(_int64(0))

    def write(self, ids: Ids, n_bytes: int) -> None:
        if self._files[-1] >= self._shard_tokens:
            self._shard.close()
            self._shard = self._open(f"{len(self._files):05d}")
            self._files.append(0)
        self._shard.write(ids.tobytes())
        self._files[-1] += len(ids)
        self._n_documents += 1
        self._n_bytes += n_bytes
        self._offsets.write(_int64(sum(self._files)))
        self._bytes.write(_int64(n_bytes))

    def counts(self) -> SplitCounts:
        return SplitCounts(documents=self._n_documents, tokens=sum(self._files), bytes=self._n_bytes, files=self._files)

    def close(self) -> None:
        for file in (self._offsets, self._bytes, self._shard):
            file.close()

    def _open(self, name: str) -> BinaryIO:
        return (self._directory / f"{self._split}-{name}.bin").open("wb")


def encode_texts(texts: Sequence[str], tokenizer: TextEncoder, dtype: np.dtype[Any]) -> list[Ids]:
    """The ids of each text, encoded in slices on all cores."""
    slices = [list(_slices(text)) for text in texts]
    flat = (piece for pieces in slices for piece in pieces)
    encoded = (np.array(ids, dtype) for group in _grouped(flat, len) for ids in tokenizer.encode_batch(group))
    return [np.concatenate([next(encoded) for _ in pieces]) for pieces in slices]


def _slices(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > _SLICE:
        stop = text.rfind("\n", start, start + _SLICE)
        while stop >= 0 and text[stop + 1].isspace():
            stop = text.rfind("\n", start, stop)
        stop = stop + 1 if stop >= 0 else start + _SLICE
        yield text[start:stop]
        start = stop
    yield text[start:]


def _grouped(items: Iterable[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    """Successive items in lists of about a chunk; each has a cost of its own, or a million empty ones would fit."""
    group: list[T] = []
    total = 0
    for item in items:
        group.append(item)
        total += size(item) + _ITEM_COST
        if total >= _CHUNK:
            yield group
            group, total = [], 0
    if group:
        yield group


def _bytes(document: Document) -> int:
    return len(document.text.encode("utf-8"))


def _int64(value: int) -> bytes:
    return value.to_bytes(8, "little")
