"""Messages as clients send them, made what chat templates are written for.

OpenAI's clients send a call's arguments as text, and write null where there is nothing; templates take the arguments
for a dict, and many ask only whether "tool_calls" is there.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from vesalius.core.errors import UserError


def for_template(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same messages. UserError where a call has no name, its arguments are no JSON object, or a result belongs to
    no call.

    >>> call = {"id": "a1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    >>> for_template([{"role": "assistant", "content": None, "tool_calls": [call]}])[0]["tool_calls"][0]["function"]
    {'name': 'add', 'arguments': {'a': 1}}
    """
    written: list[dict[str, Any]] = []
    names: dict[Any, str] = {}
    for place, message in enumerate(messages):
        kept = {key: value for key, value in message.items() if value is not None or key == "content"}
        if calls := kept.pop("tool_calls", None):
            kept["tool_calls"] = _calls(f"message {place}", calls)
            kept.setdefault("content", None)
            names |= {call["id"]: call["function"]["name"] for call in kept["tool_calls"] if "id" in call}
        if message.get("role") == "tool":
            if (number := kept.get("tool_call_id")) not in names:
                raise UserError(f"message {place} (tool) has tool_call_id {number!r}, expected a call's before it")
            kept.setdefault("name", names[number])
        written.append(kept)
    return written


def _calls(where: str, calls: Any) -> list[dict[str, Any]]:
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise UserError(f"{where} has tool_calls {calls!r}, expected a list")
    return [_call(f"{where}, tool_calls[{place}]", call) for place, call in enumerate(calls)]


def _call(where: str, call: Any) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise UserError(f'{where} is no call, expected {{"id": …, "type": "function", "function": {{"name": …, …}}}}')
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{where} has arguments that are no JSON ({error}): send them as the model wrote them"
            ) from error
    if not isinstance(arguments, Mapping):
        raise UserError(f"{where} has arguments {arguments!r}, expected a JSON object")
    return {**call, "function": {**function, "arguments": dict(arguments)}}
