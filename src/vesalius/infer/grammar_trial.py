"""Whether a grammar can be read at all, found out in a process of its own: a stranger's may want gigabytes, or minutes,
or a deeper stack than there is, and that would end the program.

`multipleOf: 999983` takes ten seconds and 400 MB to become an automaton, four thousand rules that each lead to the next
overflow the stack, and no limit of the library covers them. The trial has little of all three. It reads the grammar for
a vocabulary of single bytes and the special tokens under their ids; what the real one costs more is held by `limits`.

The process runs this file, which therefore imports nothing of this package that is slow to import.
"""

import json
import sys
import threading
from collections.abc import Mapping

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from vesalius.core.limited_process import run_limited

SECONDS, MEMORY, STACK = 5, 1 << 30, 4 << 20
"""What a grammar may take. The stack is half of what threads usually have."""

TOO_MUCH = f"it takes more than {SECONDS} s, {MEMORY >> 20} MiB or a deep stack to read"


def limits() -> LLParserLimits:
    """The library's bounds of single steps, with fewer states of the lexer: each takes one to two kilobytes."""
    return LLParserLimits(max_lexer_states=100_000, verbose_errors=False)


def reason_against(grammar: str, special_tokens: Mapping[str, int]) -> str:
    """Why the library cannot take this grammar, in one line; "" where it can. Takes a tenth of a second.

    `special_tokens`, text -> id, are those that it may name.
    """
    asked = json.dumps([grammar, dict(special_tokens)]).encode()
    trial = run_limited([sys.executable, "-P", __file__], asked, seconds=4 * SECONDS, most_output=1 << 16)
    return trial.output.decode() if trial.how == "finished" else TOO_MUCH


def first_line(error: str) -> str:
    """The library's message without the excerpt of the grammar that follows it.

    >>> first_line('at 1(8): unknown name: "nope"\\n   1 | start: nope\\n')
    'at 1(8): unknown name: "nope"'
    """
    lines = [line.strip() for line in error.splitlines()]
    reasons = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]  # a bad expression's
    return (reasons or lines or [""])[0][:300]


class _Bytes:
    """A vocabulary of the 256 bytes, special tokens and an end."""

    bos_token_id = None

    def __init__(self, special_tokens: Mapping[str, int]) -> None:
        self._first = max(special_tokens.values(), default=-1) + 1
        named = {token: text.encode() for text, token in special_tokens.items()}
        single = [*(bytes([byte]) for byte in range(256)), b"<end>"]
        self.tokens = [*(named.get(token, b"") for token in range(self._first)), *single]
        self.eos_token_id = len(self.tokens) - 1
        self.special_token_ids = [*named, self.eos_token_id]

    def __call__(self, text: bytes) -> list[int]:
        return [self._first + byte for byte in text]


def _try(grammar: str, special_tokens: Mapping[str, int]) -> None:
    tokens = LLTokenizer(TokenizerWrapper(_Bytes(special_tokens)))
    matcher = LLMatcher(tokens, grammar, log_level=0, limits=limits())
    if not matcher.is_error():
        matcher.compute_bitmask()
    sys.stdout.buffer.write(first_line(matcher.get_error()).encode())


def _limit_this_process() -> None:
    try:
        import resource  # not on Windows, where only the time is limited
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    _limit_this_process()
    threading.stack_size(STACK)
    trial = threading.Thread(target=_try, args=json.loads(sys.stdin.buffer.read()))
    trial.start()
    trial.join()
