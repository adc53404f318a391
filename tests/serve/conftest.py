"""One server for the tests that leave it as it is."""

from collections.abc import Iterator

import pytest
from tiny_server import Running, byte_tokenizer, serving, tiny_lm, with_engine

from vesalius.infer.language_model import LanguageModel


@pytest.fixture(scope="session")
def lm() -> LanguageModel:
    """The model that is served."""
    return tiny_lm(byte_tokenizer())


@pytest.fixture(scope="session")
def running(lm: LanguageModel) -> Iterator[Running]:
    """The server."""
    with serving(with_engine(lm)) as server:
        yield server
