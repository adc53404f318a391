"""A server over a tiny random model, in a thread of the test's process, and clients for it."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import httpx
import openai

from vesalius.infer.language_model import LanguageModel
from vesalius.infer.options import EngineOptions
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer
from vesalius.serve.run import Server
from vesalius.serve.service import Served, Service
from vesalius.serve.settings import ServerSettings
from vesalius.tokenizers.bpe import BPE, SPECIAL_TOKENS
from vesalius.tokenizers.tokenizer import Tokenizer

SPECIAL = {text: i for i, text in enumerate(SPECIAL_TOKENS)}
CONTEXT = 512
OPTIONS = EngineOptions(block_size=16, cache_bytes=2 << 20, max_running=4, step_tokens=64)


def byte_tokenizer(**config: Any) -> Tokenizer:
    """A vocabulary of bytes, so that any text can be written."""
    made = Tokenizer.from_bpe(BPE({bytes([b]): b + len(SPECIAL) for b in range(256)}, [], SPECIAL))
    return Tokenizer(made.backend, made.config | config)


def tiny_lm(tokenizer: Tokenizer, layers: int = 2, context: int = CONTEXT) -> LanguageModel:
    """A random model over bytes: its text is full of cut characters."""
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        initializer_range=0.3,
    )
    return LanguageModel(Transformer(config), tokenizer)


def with_engine(lm: LanguageModel, options: EngineOptions = OPTIONS) -> LanguageModel:
    """The same model with an engine of its own."""
    return LanguageModel(lm.model, lm.tokenizer, lm.generation_defaults, options)


@dataclass
class Running:
    """A server that answers."""

    url: str
    service: Service
    server: Server

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    @property
    def blocks_used(self) -> int:
        return self.service.served.lm.engine.blocks.used

    def client(self, **more: Any) -> openai.OpenAI:
        """OpenAI's own client."""
        return openai.OpenAI(base_url=f"{self.url}/v1", **{"api_key": "none", "max_retries": 0, "timeout": 60, **more})

    def http(self, **more: Any) -> httpx.Client:
        """A client that sends what it is told."""
        return httpx.Client(base_url=self.url, timeout=60, **more)

    def post(self, path: str, **body: Any) -> httpx.Response:
        """One request with a JSON body."""
        with self.http() as http:
            return http.post(path, json=body)

    def connect(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def wait_until(self, met: Any, seconds: float = 30) -> None:
        """Looks until something is so; an AssertionError where it does not become so."""
        deadline = time.monotonic() + seconds
        while not met():
            assert time.monotonic() < deadline, "it did not happen"
            time.sleep(0.005)


@contextlib.contextmanager
def serving(
    lm: LanguageModel, *, reload: Any = None, variants: tuple[Served, ...] = (), **settings: Any
) -> Iterator[Running]:
    """Serves a model until the block ends."""
    made = ServerSettings(port=0, **settings)
    service = Service(Served("tiny", lm, variants=variants), made, reload or (lambda reference: Served(reference, lm)))
    server = Server(service, reload="tiny")
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not (server.started and server.servers):
            assert thread.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Running(f"http://127.0.0.1:{port}", service, server)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def settings_of(**changes: Any) -> ServerSettings:
    """Settings with changes."""
    return replace(ServerSettings(), **changes)
