"""What a model wrote, taken apart while it comes: thoughts, content, and calls of tools.

Text goes in as it becomes certain, deltas as in OpenAI's streams come out. Whatever the pieces, the deltas joined are
the same: nothing is decided before all that could change it is there, so half a mark, blanks that may turn out to stand
before a call, and a call that is not yet whole are held back.

A call comes out whole: its start and then its arguments. It could be told sooner, but not taken back, and what only
looks like a call (broken JSON, no name, a mark that is talked about) has to stay content, to the letter.
Blanks around calls and thoughts only set them apart and are dropped.
"""

from collections.abc import Callable, Collection, Generator
from dataclasses import dataclass

from vesalius.serve.tools.calls import Call, new_id
from vesalius.serve.tools.marked_calls import BLANKS, READERS, Growing
from vesalius.serve.tools.style import CALL, PYTHON_TAG, TOOL_CALLS, CallStyle, Style

MARKS: dict[CallStyle, str] = {
    "hermes": CALL,
    "llama3": PYTHON_TAG,
    "mistral": TOOL_CALLS,
    "mistral_args": TOOL_CALLS,
}


@dataclass(frozen=True, kw_only=True)
class CallDelta:
    """The first delta of a call has its id and name, and no arguments; then come the arguments."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, kw_only=True)
class Delta:
    """One thing more of the answer: exactly one of these."""

    content: str | None = None
    reasoning_content: str | None = None
    tool_call: CallDelta | None = None


class AnswerParser:
    """One answer. `called` counts its calls: with any, the reason that it ended is "tool_calls"."""

    def __init__(
        self,
        style: Style,
        tools: Collection[str] = (),
        *,
        thinking: bool = False,
        make_id: Callable[[], str] = new_id,
    ) -> None:
        """
        tools     the names of the tools that were offered; without any, nothing is a call
        thinking  whether the prompt has opened the thought (`Style.opens_thought`)
        """
        self.called = 0
        self._calls = style.calls if tools else None
        self._tools = frozenset(tools)
        self._thought = style.thought
        self._thinking = thinking
        self._make_id = make_id
        self._growing = Growing()
        self._found: list[Delta] = []
        self._reading = self._answer()

    def push(self, text: str) -> list[Delta]:
        """What became certain with more text."""
        self._growing.text += text
        next(self._reading, None)
        found, self._found = self._found, []
        return found

    def close(self) -> list[Delta]:
        """What was held back, when no more comes."""
        self._growing.final = True
        return self.push("")

    def _answer(self) -> Generator[None, None, None]:
        """The whole answer in order; it yields where it needs more text."""
        if self._thought is not None and not self._thinking:
            place = yield from self._growing.past_blanks(0)
            self._thinking = yield from self._growing.whole(self._thought[0], place)
            if self._thinking:
                self._drop(place + len(self._thought[0]))
        if self._thought is not None and self._thinking:
            yield from self._think(self._thought[1])
        if self._calls == "llama3":
            yield from self._tell_bare_calls()
        yield from self._tell()

    def _think(self, end: str) -> Generator[None, None, None]:
        self._drop((yield from self._growing.past_blanks(0)))
        while (place := self._growing.text.find(end)) < 0:
            if self._growing.final:
                self._add(Delta(reasoning_content=self._take(len(self._growing.text)).rstrip(BLANKS)))
                return
            self._add(Delta(reasoning_content=self._take(self._certain(end))))
            yield
        self._add(Delta(reasoning_content=self._take(place).rstrip(BLANKS)))
        self._drop(len(end))
        self._drop((yield from self._growing.past_blanks(0)))

    def _tell_bare_calls(self) -> Generator[None, None, None]:
        """Calls that no mark announces: only where the answer begins with one, of tools that there are."""
        found = yield from READERS["llama3"](self._growing, 0)
        if found is not None and self._tools.issuperset(call.name for call in found[0]):
            self._add_calls(found[0])
            self._drop(found[1])

    def _tell(self) -> Generator[None, None, None]:
        """Content, and the calls in it."""
        mark = "" if self._calls is None else MARKS[self._calls]
        while True:
            while not mark or (place := self._growing.text.find(mark)) < 0:
                if self._growing.final:
                    rest = self._take(len(self._growing.text))
                    self._add(Delta(content=rest if rest.strip(BLANKS) or not self.called else ""))
                    return
                self._add(Delta(content=self._take(self._certain(mark))))
                yield
            before = self._growing.text[:place].rstrip(BLANKS)
            self._add(Delta(content=self._take(len(before))))
            behind = place - len(before) + len(mark)
            assert self._calls is not None
            found = yield from READERS[self._calls](self._growing, behind)
            if found is None:
                self._add(Delta(content=self._take(behind)))
            else:
                self._add_calls(found[0])
                self._drop(found[1])

    def _certain(self, mark: str) -> int:
        """How much of the text neither a mark nor the blanks before one can still be part of."""
        text = self._growing.text
        longest = min(len(text), len(mark) - 1)
        keep = next((n for n in range(longest, 0, -1) if mark.startswith(text[-n:])), 0)
        return len(text[: len(text) - keep].rstrip(BLANKS)) if mark else len(text)

    def _add(self, delta: Delta) -> None:
        if delta.content or delta.reasoning_content or delta.tool_call:
            self._found.append(delta)

    def _add_calls(self, calls: list[Call]) -> None:
        for call in calls:
            first = CallDelta(index=self.called, id=call.id or self._make_id(), name=call.name)
            self._add(Delta(tool_call=first))
            self._add(Delta(tool_call=CallDelta(index=self.called, arguments=call.arguments)))
            self.called += 1

    def _take(self, count: int) -> str:
        taken, self._growing.text = self._growing.text[:count], self._growing.text[count:]
        return taken

    def _drop(self, count: int) -> None:
        self._growing.text = self._growing.text[count:]
