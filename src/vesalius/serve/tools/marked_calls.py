"""The calls behind a mark, read from a text that is still growing. Each family's way is a generator (`READERS`).

A reader yields where it needs more text, and is gone on with when there is some, so it reads as if all were there. What
it returns is the same in whatever pieces the text comes: it never decides on less than it would need of the whole.
"""

import re
from collections.abc import Callable, Generator
from dataclasses import dataclass

from vesalius.serve.tools.calls import Call, Extent, read_arguments, read_call, read_calls
from vesalius.serve.tools.style import END_CALL, CallStyle

BLANKS = " \t\r\n"

Calls = tuple[list[Call], int] | None
"""The calls and where they end; None where there is none."""

LONGEST_HEAD = 200
_HEAD = re.compile(r"([\w.-]+)\s*(?:\[CALL_ID\]\s*([\w-]+)\s*)?(?:\[ARGS\])?\s*")


@dataclass
class Growing:
    """text so far; final: no more comes."""

    text: str = ""
    final: bool = False

    def past_blanks(self, place: int) -> Generator[None, None, int]:
        """The place of the next character that is no blank, or the end of a final text."""
        while True:
            rest = self.text[place:].lstrip(BLANKS)
            if rest or self.final:
                return len(self.text) - len(rest)
            yield

    def extent(self, place: int, opening: str = "{") -> Generator[None, None, int | None]:
        """Where the object that begins at `place` ends; None where none begins, or it never ends."""
        if self.text[place : place + 1] not in tuple(opening):
            return None
        extent = Extent(place)
        while (end := extent.end(self.text)) is None and not self.final:
            yield
        return end

    def whole(self, mark: str, place: int) -> Generator[None, None, bool]:
        """Whether the mark stands at a place."""
        while len(rest := self.text[place : place + len(mark)]) < len(mark) and mark.startswith(rest):
            if self.final:
                return False
            yield
        return rest == mark


Reader = Callable[[Growing, int], Generator[None, None, Calls]]


def hermes(growing: Growing, start: int) -> Generator[None, None, Calls]:
    """One object, and the end mark, which models leave out where the answer ends."""
    place = yield from growing.past_blanks(start)
    end = yield from growing.extent(place)
    call = None if end is None else read_call(growing.text[place:end])
    if end is None or call is None:
        return None
    after = yield from growing.past_blanks(end)
    closed = yield from growing.whole(END_CALL, after)
    return [call], after + len(END_CALL) if closed else end


def mistral(growing: Growing, start: int) -> Generator[None, None, Calls]:
    """An array of objects, or a name and behind [ARGS] its arguments."""
    place = yield from growing.past_blanks(start)
    if growing.text[place : place + 1] != "[":
        return (yield from _named(growing, place))
    end = yield from growing.extent(place, "[")
    calls = None if end is None else read_calls(growing.text[place:end])
    return None if end is None or calls is None else (calls, end)


def _named(growing: Growing, place: int) -> Generator[None, None, Calls]:
    while (brace := growing.text.find("{", place, place + LONGEST_HEAD)) < 0:
        if growing.final or len(growing.text) >= place + LONGEST_HEAD:
            return None
        yield
    head = _HEAD.fullmatch(growing.text, place, brace)
    end = yield from growing.extent(brace)
    arguments = None if end is None else read_arguments(growing.text[brace:end])
    if head is None or end is None or arguments is None:
        return None
    return [Call(head[1], arguments, head[2])], end


def llama3(growing: Growing, start: int) -> Generator[None, None, Calls]:
    """Objects with semicolons between them."""
    calls: list[Call] = []
    place, last = start, start
    while True:
        place = yield from growing.past_blanks(place)
        end = yield from growing.extent(place)
        call = None if end is None else read_call(growing.text[place:end], needs_arguments=True)
        if end is None or call is None:
            break
        calls.append(call)
        last = end
        after = yield from growing.past_blanks(end)
        if not growing.text.startswith(";", after):
            break
        place = after + 1
    return (calls, last) if calls else None


READERS: dict[CallStyle, Reader] = {
    "hermes": hermes,
    "llama3": llama3,
    "mistral": mistral,
    "mistral_args": mistral,
}
