"""Prompts that are to be answered, out of files of rows of any of the usual shapes, or of what is made here.

    {"prompt": "…"}    {"question": "…"}    {"instruction": "…", "input": "…"}
    {"messages": […]}  {"conversations": […]}

Of a conversation the prompt is what stands before the assistant's first turn. An answer that a row has is left out.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vesalius.core.errors import UserError
from vesalius.data.conversation import Conversation
from vesalius.data.messages import Message, read_message, read_system, read_turns
from vesalius.data.python_questions import python_conversations
from vesalius.data.row_sources import read_sources
from vesalius.data.rows import Row


@dataclass(frozen=True, slots=True)
class Prompt:
    """messages as the chat template takes them; name and split_key as those of a `Conversation`."""

    messages: list[Message]
    name: str
    split_key: str


def read_prompts(specs: Sequence[str]) -> Iterator[Prompt]:
    """The prompts of every spec in order: `questions:python`, a path, a glob, or `hf:owner/name[:split]`.

    UserError at once where nothing has the name; while reading, with file and line, where a row has no prompt.
    """
    return read_sources(specs, {"questions:python": _python_prompts}, _prompt)


def prompt_of(text: str, name: str) -> Prompt:
    """A prompt of one user's turn."""
    return _named([{"role": "user", "content": text}], name)


def _python_prompts() -> Iterator[Prompt]:
    return (_of_conversation(number, one) for number, one in enumerate(python_conversations()))


def _of_conversation(number: int, conversation: Conversation) -> Prompt:
    name = f"{conversation.name} ({number})"  # several conversations are about one member
    return Prompt(_before_answer(conversation.messages), name, conversation.split_key)


def _prompt(row: Row) -> Iterator[Prompt]:
    match row.values:
        case {"messages": turns} | {"conversations": turns}:
            messages = read_turns(turns, row.place)
        case {"prompt": list(turns)}:
            messages = read_turns(turns, row.place)
        case {"instruction": str(text)}:
            addition = row.values.get("input") or ""
            messages = [read_message("user", f"{text}\n\n{addition}" if addition else text, row.place)]
        case {"prompt": text} | {"question": text}:
            messages = [read_message("user", text, row.place)]
        case values:
            found = ", ".join(sorted(values)) or "none"
            raise UserError(f"{row.place} has the fields {found}; expected prompt, question, instruction or messages")
    messages = read_system(row) + _before_answer(messages)
    if not any(message["role"] == "user" and message["content"].strip() for message in messages):
        raise UserError(f"{row.place} asks nothing: there is no user's turn with any text before the first answer")
    yield _named(messages, row.place)


def _before_answer(messages: list[Message]) -> list[Message]:
    roles = [message["role"] for message in messages]
    return messages[: roles.index("assistant")] if "assistant" in roles else messages


def _named(messages: list[Message], name: str) -> Prompt:
    key = hashlib.blake2b(json.dumps(messages).encode(), digest_size=16).hexdigest()
    return Prompt(messages, name, key)
