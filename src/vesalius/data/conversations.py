"""Conversations out of files of rows, whichever of the four usual shapes they have, or made from a library's own help.

    messages                         {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", …}]}
    prompt and completion            {"prompt": "…", "completion": "…"}
    Alpaca (Taori et al. 2023)       {"instruction": "…", "input": "…" or "", "output": "…"}
    ShareGPT                         {"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", …}]}

Every shape becomes `messages` here, so nothing behind this file knows the others. What would teach nothing, or teach to
be silent, is an error with file and line, not a row that is skipped: a file that is half wrong should be looked at.

Left out: tool calls and contents in parts (images); preference pairs, which are no conversations.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from vesalius.core.errors import UserError, nearest
from vesalius.data.conversation import ROLES, Conversation
from vesalius.data.documents import find_files
from vesalius.data.hub_dataset import HubDataset
from vesalius.data.python_questions import python_conversations
from vesalius.data.rows import Row, read_rows

Message = dict[str, str]

_MADE = {"questions:python": python_conversations}
_ROLE_NAMES = {role: role for role in ROLES} | {"human": "user", "gpt": "assistant"}
_SHAPES = "messages | prompt, completion | instruction, output | conversations"


def read_conversations(specs: Sequence[str]) -> Iterator[Conversation]:
    """The conversations of every spec in order: `questions:python`, a path, a glob, or `hf:owner/name[:split]`.

    Files may be .jsonl, .json, .csv or .parquet, and .gz or .zst of the text kinds. UserError at once where nothing has
    the name; while reading, with file and line, where a row is broken or has none of the four shapes, a role is
    unknown, an answer is empty, or nobody answers.
    """
    return chain.from_iterable([_open_spec(spec) for spec in specs])


def _open_spec(spec: str) -> Iterator[Conversation]:
    if spec.startswith("questions:"):
        if spec not in _MADE:
            raise UserError(f"unknown conversations {spec!r}, {nearest(spec, _MADE)}")
        return _MADE[spec]()
    paths = HubDataset.parse(spec).files() if spec.startswith("hf:") else [file.path for file in find_files(spec)]
    return (_conversation(row) for path in paths for row in read_rows(path))


def _conversation(row: Row) -> Conversation:
    messages = _messages(row)
    if not any(message["role"] == "assistant" for message in messages):
        roles = ", ".join(message["role"] for message in messages) or "no message"
        raise UserError(
            f"{row.place} has no assistant turn, only {roles}: there is nothing to learn from, remove the row"
        )
    content = hashlib.blake2b(json.dumps(messages).encode(), digest_size=16)
    return Conversation(messages, row.place, split_key=content.hexdigest())


def _messages(row: Row) -> list[Message]:
    match row.values:
        case {"messages": turns}:
            return _turns(turns, row.place)
        case {"conversations": turns}:
            return _system(row) + _turns(turns, row.place)
        case {"prompt": prompt, "completion": answer}:
            pass
        case {"instruction": instruction, "output": answer}:
            addition = row.values.get("input") or ""
            prompt = f"{instruction}\n\n{addition}" if addition and isinstance(instruction, str) else instruction
        case values:
            found = ", ".join(sorted(values)) or "none"
            raise UserError(f"{row.place} has the fields {found}; expected those of one shape: {_SHAPES}")
    return [*_system(row), _message("user", prompt, row.place), _message("assistant", answer, row.place)]


def _system(row: Row) -> list[Message]:
    """The system prompt that some files keep in a field of its own."""
    text = row.values.get("system")
    return [_message("system", text, row.place)] if text else []


def _turns(turns: Any, place: str) -> list[Message]:
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise UserError(f"{place}: expected a list of objects with role and content, got {_shown(turns)}")
    return [_turn(turn, place) for turn in turns]


def _turn(turn: dict[str, Any], place: str) -> Message:
    match turn:
        case {"role": role, "content": content} | {"from": role, "value": content}:
            return _message(role, content, place)
        case _:
            found = ", ".join(sorted(turn)) or "none"
            raise UserError(f"{place}: a message has the fields {found}; expected role and content, or from and value")


def _message(role: Any, content: Any, place: str) -> Message:
    if not isinstance(role, str) or role not in _ROLE_NAMES:
        raise UserError(f"{place}: unknown role {_shown(role)}, {nearest(str(role), _ROLE_NAMES)}")
    role = _ROLE_NAMES[role]
    if not isinstance(content, str):
        raise UserError(f"{place}: the {role}'s content must be text, got {_shown(content)}")
    if role == "assistant" and not content.strip():
        raise UserError(
            f"{place}: the assistant's answer is empty, which would teach silence: fill it in or remove the row"
        )
    return {"role": role, "content": content.encode("utf-8", "replace").decode("utf-8")}  # half a surrogate pair is "?"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else f"{text[:39]}…"
