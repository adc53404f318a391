"""A tokenizer of bytes, and shards made with it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from vesalius.data.document import Document
from vesalius.data.shard_writing import write_shards
from vesalius.data.shards import TokenShards


class ByteEncoder:
    """Ids are bytes plus one; the boundary is 0."""

    document_boundary = 0
    fingerprint = "bytes"

    def __init__(self, vocab_size: int = 257) -> None:
        self.vocab_size = vocab_size
        self.batches: list[list[str]] = []

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        self.batches.append(texts)
        return [[byte + 1 for byte in text.encode("utf-8")] for text in texts]


@pytest.fixture
def encoder() -> ByteEncoder:
    return ByteEncoder()


@pytest.fixture
def make_shards(tmp_path: Path) -> Callable[..., TokenShards]:
    """Shards whose training split holds exactly the given texts, in order."""

    def make(texts: Sequence[str], shard_tokens: int = 2**28) -> TokenShards:
        # These two keys fall on either side of one half, see test_split.py.
        documents = [Document(text, f"text {i}", split_key="abc") for i, text in enumerate(texts)]
        documents.append(Document("held out", "other", split_key="json"))
        directory = tmp_path / f"shards-{len(list(tmp_path.iterdir()))}"
        write_shards(documents, ByteEncoder(), directory, validation_fraction=0.3, shard_tokens=shard_tokens)
        return TokenShards(directory, "train")

    return make
