"""Talking with a model in the terminal: answers stream, the history is kept, Ctrl-C stops the answer only.

Where the input is no terminal, each line is one message and only answers are printed, so that a program can hold the
conversation; with `as_json` each answer is one line of JSON, and what the program itself has to say goes to standard
error. Where the user gives no settings, those hold that the model's makers recommend. From turn to turn the model reads
only what is new. Left out: messages of several lines.
"""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Unpack

from rich.console import Console

from vesalius.console.answer import facts, shown
from vesalius.console.settings import sampling_options
from vesalius.core.errors import UserError, VesaliusError, nearest
from vesalius.core.files import atomic_write
from vesalius.infer.language_model import Completion, LanguageModel, Message
from vesalius.infer.params import SamplingOptions, SamplingParams

with contextlib.suppress(ImportError):  # not everywhere; where it is, input() edits lines and recalls earlier ones
    import readline  # noqa: F401

MAX_TOKENS = 256
"""The most tokens of an answer where the caller does not say; a conversation wants longer ones than a completion."""

PROMPT = "> "


def chat_loop(
    lm: LanguageModel,
    *,
    system: str | None = None,
    console: Console | None = None,
    as_json: bool = False,
    **options: Unpack[SamplingOptions],
) -> None:
    """Reads messages from standard input and answers them until /exit, Ctrl-D or the end of the input.

    `options` are those of `SamplingParams`, before those that the model recommends; UserError at once where one is out
    of its range.
    """
    settings: SamplingOptions = {"max_tokens": MAX_TOKENS, **lm.generation_defaults, **options}
    _check(settings)
    chat = Chat(lm, console or Console(highlight=False), settings, system, as_json=as_json)
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
        self,
        lm: LanguageModel,
        console: Console,
        options: SamplingOptions,
        system: str | None = None,
        *,
        as_json: bool = False,
    ) -> None:
        self.lm = lm
        self.console = console
        self.as_json = as_json
        self.options = options
        self.system = system
        self.turns: list[Message] = []
        self.left = False

    @property
    def messages(self) -> list[Message]:
        """The conversation as the model reads it: the system message if there is one, then the turns."""
        return ([{"role": "system", "content": self.system}] if self.system else []) + self.turns

    def say(self, text: str) -> None:
        """A line from the program, told apart from the model's words by its style, or by its place for a program."""
        console = Console(stderr=True) if self.as_json else self.console
        console.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)

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
        first: float | None = None
        stream = self.lm.stream(self.messages, **self.options)
        try:
            for piece in stream:
                first = first or time.perf_counter()
                if not self.as_json:
                    self._print(shown(piece))
        except KeyboardInterrupt:
            stream.close()
            self._print("" if self.as_json else " …")
        answer = stream.completion
        self._print((json.dumps(facts(answer)) if self.as_json else "") + "\n")
        self._tell_cost(answer, start, first or time.perf_counter())
        return answer

    def _print(self, text: str) -> None:
        """The model's words as they are: rich would wrap them and expand their tabs."""
        self.console.file.write(text)
        self.console.file.flush()

    def _tell_cost(self, answer: Completion, start: float, first: float) -> None:
        """In a terminal: how long the answer was, when its first words came and how fast the others, and whether it was
        cut off."""
        if not self.console.is_terminal or self.as_json:
            return
        count, seconds = answer.usage.completion_tokens, time.perf_counter() - first
        speed = f", {(count - 1) / seconds:.0f} a second" if count > 1 and seconds > 0 else ""
        cut = {"length": ", cut off at the limit", None: ", stopped"}.get(answer.finish_reason, "")
        self.say(f"({count} tokens, the first after {first - start:.2f} s{speed}{cut})")

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

    def set_option(self, change: str) -> None:
        """Changes a setting of the answers, or tells all of them where `change` is empty. UserError where it is
        wrong."""
        if change:
            settings: SamplingOptions = {**self.options, **sampling_options([change])}
            _check(settings)
            self.options = settings
        told = [f"{name} = {value}" for name, value in self.options.items() if value is not None]
        self.say(f"({', '.join(told)})")

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
    "/set": ("NAME=VALUE: change a setting of the answers, for example temperature=0.7", Chat.set_option),
    "/save": ("FILE: write the conversation as one line of JSON, as training reads it", Chat.save),
    "/exit": ("leave; so does Ctrl-D", Chat.leave),
}


def _check(options: SamplingOptions) -> None:
    if (params := SamplingParams.of(**options)).num_beams > 1:
        raise UserError(f"num_beams = {params.num_beams}: a chat streams its answers, which beam search cannot")


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
