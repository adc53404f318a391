"""A tiny corpus in shards, one token a byte, so that tokens and bytes can be counted by hand."""

import random
from pathlib import Path

import pytest

from vesalius.data.document import Document
from vesalius.data.shard_writing import write_shards
from vesalius.data.shards import TokenShards


class ByteTokenizer:
    """Boundary 0, then one token for each byte value."""

    document_boundary = 0
    vocab_size = 257
    fingerprint = "bytes"

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [[byte + 1 for byte in text.encode()] for text in texts]

    def token_bytes(self, token: int) -> bytes:
        return bytes([token - 1]) if token else b"<|endoftext|>"


def sentences(seed: int, words: int) -> str:
    vocabulary = ["the", "cat", "sees", "a", "déjà", "vu", "and", "runs", "home", "again", "🙂"]
    return " ".join(random.Random(seed).choices(vocabulary, k=words))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard directory of 40 documents, a quarter of them held out."""
    directory = tmp_path_factory.mktemp("corpus") / "shards"
    documents = [Document(sentences(i, 3 + 7 * i % 60), f"document {i}", str(i)) for i in range(40)]
    write_shards(documents, ByteTokenizer(), directory, validation_fraction=0.25)
    return directory


@pytest.fixture
def train_shards(corpus: Path) -> TokenShards:
    return TokenShards(corpus, "train")


@pytest.fixture
def held_out(corpus: Path) -> TokenShards:
    return TokenShards(corpus, "validation")


@pytest.fixture
def byte_tokenizer() -> ByteTokenizer:
    return ByteTokenizer()
