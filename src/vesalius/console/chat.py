"""Talking with a model in the terminal: answers stream, the history is kept, Ctrl-C stops the answer only.

Where the input is no terminal, each line is one message and only answers are printed, so that a program can hold the
conversation. A model's output is not trusted with the terminal: control characters are shown and never obeyed. Left
out: messages of several lines, and reading the whole conversation again only from where it changed.
"""

import contextlib
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Unpack

from rich.console import Console

from vesalius.core.errors import UserError, VesaliusError, nearest
from vesalius.core.files import atomic_write
from vesalius.infer.language_model import Completion, LanguageModel, Message
from vesalius.infer.sampling import SamplingOptions, SamplingParams

with contextlib.suppress(ImportError):  # not everywhere; where it is, input() edits lines and recalls earlier ones
    import readline  # noqa: F401

MAX_TOKENS = 256
"""The most tokens of an answer where the caller does not say; a conversation wants longer ones than a completion."""

PROMPT = "> "
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def chat_loop(
    lm: LanguageModel, *, system: str | None = None, console: Console | None = None, **options: Unpack[SamplingOptions]
) -> None:
    """Reads messages from standard input and answers them until /exit, Ctrl-D or the end of the input.

    `options` are those of `SamplingParams`; UserError at once where one is out of its range.
    """
    options.setdefault("max_tokens", MAX_TOKENS)
    SamplingParams.of(**options)
    chat = Chat(lm, console or Console(highlight=False), options, system)
    if sys.stdin.isatty():
        chat.say("Say something. /help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves.")
    for line in _lines(chat.say):
        with contextlib.suppress(KeyboardInterrupt):  # one more, while the first is still being told
            chat.read(line)
        if chat.left:
            return


class Chat:
    """One conversation with a model, and the commands that steer it."""

    def __init__(
        self, lm: LanguageModel, console: Console, options: SamplingOptions, system: str | None = None
    ) -> None:
        self.lm = lm
        self.console = console
        self.options = options
        self.system = system
        self.turns: list[Message] = []
        self.left = False

    @property
    def messages(self) -> list[Message]:
        """The conversation as the model reads it: the system message if there is one, then the turns."""
        return ([{"role": "system", "content": self.system}] if self.system else []) + self.turns

    def say(self, text: str) -> None:
        """A line from the program, told apart from the model's words by its style."""
        self.console.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)

    def read(self, line: str) -> None:
        """Does what one line of input asks: nothing, a command, or an answer. A line that begins with a space is no
        command."""
        if line.startswith("/"):
            self._command(line)
        elif line.strip():
            self._exchange(line.strip())

    def _command(self, line: str) -> None:
        name, _, argument = line.strip().partition(" ")
        if name not in COMMANDS:
            self.say(
                f"there is no {name}, {nearest(name, COMMANDS)} (begin with a space to send a line that starts with /)"
            )
            return
        _, action = COMMANDS[name]
        try:
            action(self, argument.strip())
        except (OSError, VesaliusError) as error:
            self.say(str(error))

    def _exchange(self, text: str) -> None:
        """One message and its answer. Where the message cannot be answered, it is taken back and the reason is told."""
        self.turns.append({"role": "user", "content": text})
        try:
            self._forget_what_does_not_fit()
            answer = self._stream_answer()
        except UserError as error:
            self.turns.pop()
            self.say(str(error))
            return
        self.turns.append({"role": "assistant", "content": answer.text})

    def _forget_what_does_not_fit(self) -> None:
        """Drops the oldest turns until the conversation leaves room for an answer."""
        context = self.lm.config.max_position_embeddings
        room = min(SamplingParams.of(**self.options).max_tokens, context // 2)
        before = len(self.turns)
        while len(self.lm.prompt_ids(self.messages)) > context - room and len(self.turns) > 1:
            later = (i for i, turn in enumerate(self.turns) if i > 0 and turn["role"] == "user")
            del self.turns[: next(later)]
        if forgotten := before - len(self.turns):
            self.say(
                f"(the conversation is longer than the model's context of {context}: "
                f"the oldest {forgotten} messages are forgotten)"
            )

    def _stream_answer(self) -> Completion:
        start = time.perf_counter()
        stream = self.lm.stream(self.messages, **self.options)
        try:
            for piece in stream:
                self._print(_CONTROL.sub("\ufffd", piece))
        except KeyboardInterrupt:
            self._print(" …")
        self._print("\n")
        self._tell_cost(stream.completion, time.perf_counter() - start)
        return stream.completion

    def _print(self, text: str) -> None:
        """The model's words as they are: rich would wrap them and expand their tabs."""
        self.console.file.write(text)
        self.console.file.flush()

    def _tell_cost(self, answer: Completion, seconds: float) -> None:
        """In a terminal: how long the answer was, how fast it came, and whether it was cut off."""
        if not self.console.is_terminal:
            return
        count = answer.usage.completion_tokens
        cut = {"length": ", cut off at the limit", None: ", stopped"}.get(answer.finish_reason, "")
        self.say(f"({count} tokens, {count / seconds:.0f} a second{cut})")

    def help(self, _: str) -> None:
        """Lists the commands."""
        self.say("\n".join(f"{name:<8} {meaning}" for name, (meaning, _) in COMMANDS.items()))

    def reset(self, _: str) -> None:
        """Forgets the turns; the system message stays."""
        self.turns = []
        self.say("(a new conversation)")

    def set_system(self, text: str) -> None:
        """Sets the system message, or removes it where `text` is empty."""
        self.system = text or None
        self.say("(the system message is set)" if text else "(no system message)")

    def save(self, path: str) -> None:
        """Writes the conversation as a line that training reads. UserError without a file name."""
        if not path:
            raise UserError("/save needs a file name, for example /save chat.jsonl")
        atomic_write(path, json.dumps({"messages": self.messages}, ensure_ascii=False) + "\n")
        self.say(f"(saved to {path})")

    def leave(self, _: str) -> None:
        """Ends the conversation."""
        self.left = True


COMMANDS: dict[str, tuple[str, Callable[[Chat, str], None]]] = {
    "/help": ("list the commands", Chat.help),
    "/reset": ("forget the conversation", Chat.reset),
    "/system": ("TEXT: set the system message, or remove it where there is no text", Chat.set_system),
    "/save": ("FILE: write the conversation as one line of JSON, as training reads it", Chat.save),
    "/exit": ("leave; so does Ctrl-D", Chat.leave),
}


def _lines(say: Callable[[str], None]) -> Iterator[str]:
    """Lines of standard input, with a prompt and line editing where it is a terminal."""
    if not sys.stdin.isatty():
        yield from (line.rstrip("\n") for line in sys.stdin)
        return
    while True:
        try:
            yield input(PROMPT)
        except KeyboardInterrupt:
            say("\n(Ctrl-D or /exit leaves)")
        except EOFError:
            say("")
            return
