"""What is noted of one request on its way, for its line in the log and its trace.

The code that answers does not know who asked: it writes into the notes of the current request, which `contextvars`
keeps apart for every request, and for everything that the request awaits.
"""

import contextvars
import time
from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Notes:
    """One request.

    id         what the client and the log call it
    prompts    their texts, only where the server is told to log them
    first      seconds to the first token
    """

    id: str
    started: float = field(default_factory=time.monotonic)
    model: str | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    finish_reasons: list[str] = field(default_factory=list)
    first: float | None = None
    prompts: list[str] = field(default_factory=list)

    def answered(self, tokens: int, reason: str, first: float) -> None:
        """One answer has ended."""
        self.completion_tokens += tokens
        self.finish_reasons.append(reason)
        self.first = first if self.first is None else min(first, self.first)


_current: contextvars.ContextVar[Notes] = contextvars.ContextVar("notes")


def begin_notes(request_id: str) -> Notes:
    """Notes for the request that is handled from here on in this context."""
    notes = Notes(id=request_id)
    _current.set(notes)
    return notes


def current_notes() -> Notes:
    """Those of the request that is being handled."""
    return _current.get()
