"""POST /tokenize, /detokenize and /render: what the model reads of a text or a conversation, token for token."""

import asyncio
from typing import Any

from vesalius.serve.answers import token_bytes
from vesalius.serve.chat_completions import conversation_of
from vesalius.serve.errors import ApiError
from vesalius.serve.prompting import prompt_ids
from vesalius.serve.protocol.chat import Conversation
from vesalius.serve.protocol.tokens import DetokenizeRequest, TokenizeRequest
from vesalius.serve.service import Served, Service


async def tokenize(service: Service, body: TokenizeRequest) -> dict[str, Any]:
    """Ids of a text or of messages, as many of them as the context has room for told beside."""
    served = service.model(body.model)
    if body.prompt is None:
        assert body.messages is not None
        asked = Conversation(messages=body.messages, tools=body.tools, chat_template_kwargs=body.chat_template_kwargs)
        ids = await prompt_ids(served, conversation_of(asked))
    else:
        encode = served.lm.prompt_ids if body.add_special_tokens else served.lm.tokenizer.encode
        ids = await asyncio.to_thread(encode, body.prompt)
    return {"count": len(ids), "max_model_len": served.context, "tokens": ids, "token_strs": pieces(served, ids)}


async def detokenize(service: Service, body: DetokenizeRequest) -> dict[str, Any]:
    """The text of ids, special tokens in it."""
    served = service.model(body.model)
    size = served.lm.tokenizer.vocab_size
    if unknown := next((token for token in body.tokens if token >= size), None):
        raise ApiError(400, f"token {unknown} is not in the vocabulary of {size}", param="tokens")
    return {"prompt": await asyncio.to_thread(served.lm.tokenizer.decode, body.tokens)}


async def render(service: Service, body: Conversation) -> dict[str, Any]:
    """What the model reads of a conversation: the text, its ids, and the text of each."""
    served = service.model(body.model)
    ids = await prompt_ids(served, conversation_of(body))
    text = await asyncio.to_thread(served.lm.tokenizer.decode, ids)
    special = frozenset(served.lm.tokenizer.special_tokens.values())
    told = zip(ids, pieces(served, ids), strict=True)
    return {"text": text, "tokens": [{"id": i, "text": piece, "special": i in special} for i, piece in told]}


def pieces(served: Served, ids: list[int]) -> list[str]:
    """The text of each token; where one ends inside a character, with marks in its place."""
    return [token_bytes(served.lm.tokenizer, token).decode("utf-8", "replace") for token in ids]
