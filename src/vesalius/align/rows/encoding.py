"""Conversations as ids, each token marked by whether the assistant says it: what tuning and distillation read.

What is longer than the context is dropped, counted and named: half an answer teaches to stop in the middle. What the
chat template cannot say is an error instead, told with the conversation's name, as a broken row is
(data/conversations).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from vesalius.align.rows.spans import Ids, Spans, SpansWriter
from vesalius.align.rows.system_messages import with_their_system
from vesalius.core.errors import UserError
from vesalius.data.conversation import Conversation
from vesalius.tokenizers.chat import ChatIds, encode_chat
from vesalius.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Conversation i is span i, its name `names[i]`, the data that it is from `origins[i]`. `dropped` has the names of
    what was left out, by the reason; `padding` is the id that fills rows up."""

    spans: Spans
    names: list[str]
    origins: list[str]
    dropped: dict[str, list[str]]
    padding: int

    def __len__(self) -> int:
        return len(self.names)

    def sources(self, origins: Iterable[str]) -> Ids:
        """(N,) of each conversation, the place of its origin among these."""
        places = {origin: place for place, origin in enumerate(origins)}
        return np.array([places[origin] for origin in self.origins], np.int64)


def encode_conversations(conversations: Iterable[Conversation], tokenizer: Tokenizer, context: int) -> Encoded:
    """The conversations that fit into `context` tokens. UserError where none is left, the template refuses one, has no
    place for its system message, or writes nothing that the assistant says."""
    writer, names, origins, longer = SpansWriter(tokenizer.vocab_size), list[str](), list[str](), list[str]()
    for conversation in with_their_system(conversations, tokenizer, lambda one: (one.name, one.messages)):
        chat = _encode(conversation, tokenizer)
        if len(chat.ids) > context:
            longer.append(conversation.name)
            continue
        writer.add(chat.ids, chat.assistant_mask)
        names.append(conversation.name)
        origins.append(conversation.origin)
    if not names:
        raise UserError(_why_nothing_is_left(longer, context))
    return Encoded(
        spans=writer.done(),
        names=names,
        origins=origins,
        dropped={f"longer than {context} tokens": longer} if longer else {},
        padding=tokenizer.bos_id or 0,  # nothing reads it and it reads nothing: any id would do
    )


def _encode(conversation: Conversation, tokenizer: Tokenizer) -> ChatIds:
    try:
        chat = encode_chat(tokenizer, conversation.messages)
    except UserError as error:
        raise UserError(f"{conversation.name}: {error}") from error
    if not any(chat.assistant_mask):
        raise UserError(f"{conversation.name}: the chat template writes nothing that the assistant says: look at it")
    return chat


def _why_nothing_is_left(longer: list[str], context: int) -> str:
    if not longer:
        return "there are no conversations to train on: the files are empty, or the split left none on this side"
    return (
        f"all {len(longer)} conversations are longer than the context of {context} tokens (the first: {longer[0]}): "
        "raise the context or give shorter conversations"
    )
