"""Messages out of the values of a row: what conversations, preferences and ratings have in common.

What would teach to be silent, or can't be told, is an error with file and line.
"""

import json
from typing import Any

from vesalius.core.errors import UserError, nearest
from vesalius.data.conversation import ROLES
from vesalius.data.rows import Row

Message = dict[str, str]

_ROLE_NAMES = {role: role for role in ROLES} | {"human": "user", "gpt": "assistant"}


def read_system(row: Row) -> list[Message]:
    """The system prompt that some files keep in a field of its own."""
    text = row.values.get("system")
    return [read_message("system", text, row.place)] if text else []


def read_turns(turns: Any, place: str) -> list[Message]:
    """A list of messages, in the words of OpenAI (role, content) or of ShareGPT (from, value)."""
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise UserError(f"{place}: expected a list of objects with role and content, got {shown(turns)}")
    return [_turn(turn, place) for turn in turns]


def _turn(turn: dict[str, Any], place: str) -> Message:
    match turn:
        case {"role": role, "content": content} | {"from": role, "value": content}:
            return read_message(role, content, place)
        case _:
            found = ", ".join(sorted(turn)) or "none"
            raise UserError(f"{place}: a message has the fields {found}; expected role and content, or from and value")


def read_message(role: Any, content: Any, place: str) -> Message:
    """One message. UserError where the role is unknown, the content is no text, or an assistant says nothing."""
    if not isinstance(role, str) or role not in _ROLE_NAMES:
        raise UserError(f"{place}: unknown role {shown(role)}, {nearest(str(role), _ROLE_NAMES)}")
    role = _ROLE_NAMES[role]
    if not isinstance(content, str):
        raise UserError(f"{place}: the {role}'s content must be text, got {shown(content)}")
    if role == "assistant" and not content.strip():
        raise UserError(
            f"{place}: the assistant's answer is empty, which would teach silence: fill it in or remove the row"
        )
    return {"role": role, "content": content.encode("utf-8", "replace").decode("utf-8")}  # half a surrogate pair is "?"


def shown(value: Any) -> str:
    """A value as an error message can show it: JSON, cut."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else f"{text[:39]}…"
