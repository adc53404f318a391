"""One call of a tool, read from JSON that a model wrote. Arguments keep the text that they were written in."""

import json
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_BLANK = re.compile(r"[ \t\r\n]*")
_BRACKET = re.compile(r'["\\{}\[\]]')
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class Call:
    """name, and arguments as the text of a JSON object; id where the model gave one."""

    name: str
    arguments: str
    id: str | None = None


def new_id() -> str:
    """Nine letters and digits: some chat templates refuse any other number."""
    return secrets.token_hex(5)[:9]


class Extent:
    """Finds where a JSON object or array ends, in a text that grows: brackets are counted, strings skipped.

    It does not check the rest: whoever reads what it found does.

    >>> extent = Extent()
    >>> extent.end('{"a": "}'), extent.end('{"a": "}"} and')
    (None, 10)
    """

    def __init__(self, start: int = 0) -> None:
        """`start` is the place of the opening bracket."""
        self._place, self._depth, self._in_string = start, 0, False

    def end(self, text: str) -> int | None:
        """The place behind the last bracket; None where the text ends before. What was looked at is not read again."""
        while found := _BRACKET.search(text, self._place):
            character, self._place = found[0], found.end()
            if character == "\\":
                if self._place == len(text) and self._in_string:
                    self._place -= 1  # what is escaped is yet to come
                    return None
                self._place += self._in_string
            elif character == '"':
                self._in_string = not self._in_string
            elif not self._in_string:
                self._depth += 1 if character in "{[" else -1
                if self._depth <= 0:
                    return self._place
        self._place = len(text)
        return None


def read_call(text: str, *, needs_arguments: bool = False) -> Call | None:
    """A call written as one object: "name" and "arguments" or "parameters". None where it is anything else.

    >>> read_call('{"name": "add", "arguments": {"a": 1.0}}')
    Call(name='add', arguments='{"a": 1.0}', id=None)
    """
    try:
        fields = {key: (value, text[start:end]) for key, value, start, end in _members(text)}
    except (ValueError, IndexError, RecursionError):
        return None
    name = fields.get("name", (None, ""))[0]
    given = fields.get("arguments") or fields.get("parameters") or (None if needs_arguments else ({}, "{}"))
    arguments = None if given is None else arguments_in(*given)
    number = fields.get("id", (None, ""))[0]
    if not isinstance(name, str) or not name or arguments is None:
        return None
    return Call(name, arguments, number if isinstance(number, str) and number else None)


def read_calls(text: str) -> list[Call] | None:
    """Calls written as an array of objects; None where one of them is none, or there are none."""
    found: list[Call] = []
    place = 1
    while text[place - 1] != "]":
        start = _skip(text, place)
        end = Extent(start).end(text) if text.startswith("{", start) else None
        call = None if end is None else read_call(text[start:end])
        if end is None or call is None:
            return None
        found.append(call)
        place = _skip(text, end) + 1
        if text[place - 1 : place] not in (",", "]"):
            return None
    return found or None


def arguments_in(value: Any, text: str) -> str | None:
    """The text of an object; also where it was written as a string. None where it is neither."""
    if isinstance(value, str):
        text = value
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return None
    return text if isinstance(value, dict) else None


def read_arguments(text: str) -> str | None:
    """The text itself where it is a JSON object."""
    return arguments_in(text, text)


def _members(text: str) -> Iterator[tuple[str, Any, int, int]]:
    """Key, value, and where the value stands, of one JSON object. ValueError or IndexError where it is none."""
    place = _expect(text, 0, "{")
    if text[place] == "}":
        return
    while True:
        key, place = _DECODER.raw_decode(text, place)
        start = _expect(text, _skip(text, place), ":")
        value, end = _DECODER.raw_decode(text, start)
        if not isinstance(key, str):
            raise ValueError("a key that is no text")
        yield key, value, start, end
        place = _skip(text, end)
        if text[place] == "}":
            return
        place = _expect(text, place, ",")


def _expect(text: str, place: int, character: str) -> int:
    if text[place] != character:
        raise ValueError(f"no {character}")
    return _skip(text, place + 1)


def _skip(text: str, place: int) -> int:
    found = _BLANK.match(text, place)
    assert found is not None  # it matches nothing, too
    return found.end()
