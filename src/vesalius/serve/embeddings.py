"""POST /v1/embeddings: the mean of a text's last hidden states, at unit length as OpenAI's are.

A decoder was not trained to tell texts apart by it: it serves for rough likeness, an encoder does better.
"""

import asyncio
import base64
import struct
from typing import Any

import torch

from vesalius.serve.errors import ApiError
from vesalius.serve.notes import current_notes
from vesalius.serve.protocol.completions import prompts_of
from vesalius.serve.protocol.embeddings import EmbeddingRequest
from vesalius.serve.service import Served, Service


async def embed(service: Service, body: EmbeddingRequest) -> dict[str, Any]:
    """The vectors of all texts. ApiError or UserError where the request is not accepted."""
    served = service.model(body.model)
    width = served.lm.config.hidden_size
    if body.dimensions not in (None, width):
        raise ApiError(400, f"dimensions = {body.dimensions}, expected {width}, the model's width", param="dimensions")
    texts = await asyncio.to_thread(_encode, served, body)
    notes = current_notes()
    notes.model, notes.prompt_tokens = served.name, sum(map(len, texts))
    vectors = await _vectors(service, served, texts)
    form = _base64 if body.encoding_format == "base64" else list
    data = [{"object": "embedding", "index": i, "embedding": form(vector)} for i, vector in enumerate(vectors)]
    usage = {"prompt_tokens": notes.prompt_tokens, "total_tokens": notes.prompt_tokens}
    return {"object": "list", "data": data, "model": served.name, "usage": usage}


def _encode(served: Served, body: EmbeddingRequest) -> list[list[int]]:
    return [served.lm.prompt_ids(text) if isinstance(text, str) else text for text in prompts_of(body.input)]


async def _vectors(service: Service, served: Served, texts: list[list[int]]) -> list[list[float]]:
    """As many texts at a time as the engine reads at once: a long list must not need the whole queue."""
    room = min(service.settings.max_answers, served.lm.engine.options.max_running)
    vectors: list[list[float]] = []
    for start in range(0, len(texts), room):
        ticket = await service.embed(served, texts[start : start + room])
        try:
            sequences = await ticket.finished()
        finally:
            ticket.close()
        for sequence in sequences:
            assert sequence.embedding is not None
            vectors.append(torch.nn.functional.normalize(sequence.embedding.float(), dim=0).tolist())
    return vectors


def _base64(vector: list[float]) -> str:
    """Little-endian float32, which OpenAI's client asks for and reads."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
