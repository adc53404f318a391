"""The terminal chat: what it says, remembers and forgets; commands; Ctrl-C; pipes and a real terminal."""

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys

import pytest
import torch
from rich.console import Console

from vesalius.console.chat import COMMANDS, PROMPT, Chat, chat_loop
from vesalius.core.errors import UserError
from vesalius.infer.language_model import Completion, LanguageModel, Usage
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.bpe import BPE, SPECIAL_TOKENS
from vesalius.tokenizers.tokenizer import Tokenizer


class Scripted:
    """Stands where a language model does: reads one token a character, and says what it is told to, piece by piece.

    A piece that is an exception is raised where the piece would come.
    """

    def __init__(self, answers: list[list[str | BaseException]], context: int = 1000) -> None:
        self.answers = list(answers)
        self.heard: list[list[dict]] = []
        self.generation_defaults: dict = {}
        self.asked: list[dict] = []
        self.config = ModelConfig(
            vocab_size=1,
            hidden_size=1,
            num_hidden_layers=1,
            num_attention_heads=1,
            position="none",
            max_position_embeddings=context,
        )

    def prompt_ids(self, messages: list[dict]) -> list[int]:
        return [0] * sum(len(message["content"]) for message in messages)

    def stream(self, messages: list[dict], **options: object) -> "ScriptedStream":
        if len(self.prompt_ids(messages)) >= self.config.max_position_embeddings:
            raise UserError("too long")
        self.heard.append([dict(message) for message in messages])
        self.asked.append(options)
        return ScriptedStream(self.answers.pop(0))


class ScriptedStream:
    def __init__(self, pieces: list[str | BaseException]) -> None:
        self.pieces, self.said, self.closed = pieces, "", False

    def close(self) -> None:
        self.closed = True

    def __iter__(self):
        for piece in self.pieces:
            if isinstance(piece, BaseException):
                raise piece
            self.said += piece
            yield piece

    @property
    def completion(self) -> Completion:
        usage = Usage(prompt_tokens=1, completion_tokens=len(self.said))
        return Completion(text=self.said, ids=[], logprobs=[], finish_reason=None, usage=usage)


def talk(lm: Scripted, *lines: str, system: str | None = None, max_tokens: int = 10) -> tuple[Chat, str]:
    """The chat after these lines of input, and everything that it printed."""
    out = io.StringIO()
    chat = Chat(lm, Console(file=out, width=80), {"max_tokens": max_tokens}, system)  # type: ignore[arg-type]
    for line in lines:
        chat.read(line)
    return chat, out.getvalue()


def test_an_answer_is_printed_and_remembered():
    lm = Scripted([["Hel", "lo."], ["Fine."]])
    chat, printed = talk(lm, "Hi", "How are you?")
    assert printed == "Hello.\nFine.\n"
    assert [turn["content"] for turn in lm.heard[1]] == ["Hi", "Hello.", "How are you?"]
    assert [turn["role"] for turn in chat.messages] == ["user", "assistant"] * 2


def test_empty_lines_are_not_answered():
    assert talk(Scripted([]), "", "   ")[1] == ""


def test_the_system_message_comes_first_and_can_be_changed():
    lm = Scripted([["a"], ["b"], ["c"]])
    talk(lm, "one", "/system Be brief.", "two", "/system", "three", system="Be kind.")
    assert [heard[0]["content"] for heard in lm.heard] == ["Be kind.", "Be brief.", "one"]


def test_reset_forgets_the_turns_and_keeps_the_system_message():
    lm = Scripted([["a"], ["b"]])
    talk(lm, "one", "/reset", "two", system="Be kind.")
    assert [message["content"] for message in lm.heard[1]] == ["Be kind.", "two"]


def test_help_lists_every_command():
    printed = talk(Scripted([]), "/help")[1]
    assert all(name in printed for name in COMMANDS)


def test_exit_leaves():
    assert talk(Scripted([]), "/exit")[0].left


def test_an_unknown_command_hints_at_the_nearest():
    chat, printed = talk(Scripted([]), "/rest")
    assert "there is no /rest, did you mean '/reset'?" in printed
    assert chat.messages == []


def test_a_line_that_begins_with_a_space_is_a_message():
    lm = Scripted([["a"]])
    talk(lm, " /etc is what?")
    assert lm.heard[0][-1]["content"] == "/etc is what?"


def test_a_saved_conversation_is_a_line_that_training_reads(tmp_path):
    chat, _ = talk(Scripted([["é"]]), "Hi", f"/save {tmp_path / 'chat.jsonl'}")
    assert json.loads((tmp_path / "chat.jsonl").read_text("utf-8")) == {"messages": chat.messages}


@pytest.mark.parametrize("line", ["/save", "/save /proc/nowhere/chat.jsonl"])
def test_a_save_that_fails_is_told_and_the_chat_goes_on(line):
    chat, printed = talk(Scripted([]), line)
    assert printed
    assert not chat.left


def test_ctrl_c_stops_the_answer_and_what_was_said_is_remembered():
    lm = Scripted([["Once", " upon", KeyboardInterrupt()], ["b"]])
    _, printed = talk(lm, "Tell me a story", "Go on")
    assert printed == "Once upon …\nb\n"
    assert lm.heard[1][1] == {"role": "assistant", "content": "Once upon"}


def test_the_oldest_turns_are_forgotten_where_the_context_is_full_and_the_user_is_told():
    lm = Scripted([["a" * 30], ["b" * 30], ["c"]], context=100)
    _, printed = talk(lm, "1" * 20, "2" * 10, "3" * 20, system="s" * 5)
    assert [message["content"][0] for message in lm.heard[1]] == ["s", "1", "a", "2"]
    assert [message["content"][0] for message in lm.heard[2]] == ["s", "2", "b", "3"]
    assert "oldest 2 messages are forgotten" in printed.replace("\n", " ")


def test_a_message_that_cannot_be_answered_is_taken_back():
    lm = Scripted([["a"]], context=50)
    chat, printed = talk(lm, "x" * 60, "short")
    assert "too long" in printed
    assert [message["content"] for message in chat.messages] == ["short", "a"]


def test_control_characters_of_a_model_never_reach_the_terminal():
    _, printed = talk(Scripted([["\x1b[2Jgone\x07", "\ttab [bold]:smile:"]]), "Hi")
    assert printed == "\ufffd[2Jgone\ufffd\ttab [bold]:smile:\n"


def test_lines_of_a_pipe_are_answered_until_they_end(monkeypatch):
    lm, out = Scripted([["one"], ["two"], ["never"]]), io.StringIO()
    monkeypatch.setattr("sys.stdin", io.StringIO("a\nb\n/exit\nc\n"))
    chat_loop(lm, console=Console(file=out))  # type: ignore[arg-type]
    assert out.getvalue() == "one\ntwo\n"


def test_ctrl_c_at_the_prompt_tells_how_to_leave_and_ctrl_d_leaves(monkeypatch):
    typed, out = iter([KeyboardInterrupt(), "Hi", EOFError()]), io.StringIO()

    def type_next(_: str) -> str:
        if isinstance(line := next(typed), BaseException):
            raise line
        return line

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", type_next)
    chat_loop(Scripted([["Hello."]]), console=Console(file=out))  # type: ignore[arg-type]
    greeting, hint, *rest = out.getvalue().split("\n", maxsplit=2)
    assert "Ctrl-D leaves" in greeting
    assert rest == ["(Ctrl-D or /exit leaves)\nHello.\n\n"], hint


def test_options_out_of_range_are_refused_before_anything_is_read(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("a\n"))
    with pytest.raises(UserError, match="temperature"):
        chat_loop(Scripted([]), temperature=-1.0)  # type: ignore[arg-type]


def test_settings_that_the_model_recommends_hold_where_the_user_gives_none(monkeypatch):
    lm = Scripted([["one"]])
    lm.generation_defaults = {"temperature": 0.7, "top_p": 0.9}
    monkeypatch.setattr("sys.stdin", io.StringIO("a\n"))
    chat_loop(lm, console=Console(file=io.StringIO()), temperature=0.0, seed=3)  # type: ignore[arg-type]
    assert lm.asked == [{"max_tokens": 256, "temperature": 0.0, "top_p": 0.9, "seed": 3}]


def test_a_setting_can_be_changed_while_talking():
    lm = Scripted([["a"], ["b"]])
    _, printed = talk(lm, "one", "/set temperature=0.5", "two", "/set")
    assert [asked.get("temperature") for asked in lm.asked] == [None, 0.5]
    assert printed.count("(max_tokens = 10, temperature = 0.5)") == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("temprature=1", "did you mean 'temperature'"),
        ("temperature=-1", "expected a number from 0"),
        ("num_beams=4", "a chat streams its answers"),
        ("hot", "not of the form"),
    ],
)
def test_a_change_that_is_wrong_is_told_and_changes_nothing(change, message):
    chat, printed = talk(Scripted([]), f"/set {change}")
    assert message in printed.replace("\n", " ")
    assert chat.options == {"max_tokens": 10}


def test_beam_search_is_refused_at_once(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("a\n"))
    with pytest.raises(UserError, match="a chat streams its answers"):
        chat_loop(Scripted([]), num_beams=2)  # type: ignore[arg-type]


def test_answers_as_json_are_one_line_each_and_nothing_else_is_printed(monkeypatch, capsys):
    lm, out = Scripted([["one\n", "more"], ["two"]]), io.StringIO()
    monkeypatch.setattr("sys.stdin", io.StringIO("a\n/help\nb\n"))
    chat_loop(lm, console=Console(file=out, force_terminal=True), as_json=True)  # type: ignore[arg-type]
    answers = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [answer["text"] for answer in answers] == ["one\nmore", "two"]
    assert "/reset" in capsys.readouterr().err


def test_in_a_terminal_each_answer_is_followed_by_its_speed():
    lm, out = Scripted([["Hel", "lo."]]), io.StringIO()
    chat = Chat(lm, Console(file=out, width=80, force_terminal=True, color_system=None), {"max_tokens": 10})  # type: ignore[arg-type]
    chat.read("Hi")
    assert re.search(r"Hello\.\n.*\(6 tokens, the first after \d\.\d\d s, \d+ a second, stopped\)", out.getvalue())


class Terminal:
    """A program in a terminal of its own."""

    def __init__(self, *command: str) -> None:
        self.ours, theirs = pty.openpty()
        self.program = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
        os.close(theirs)
        self.unread = ""

    def wait_for(self, text: str) -> None:
        """Reads what the program prints up to and including `text`."""
        while text not in self.unread:
            ready, _, _ = select.select([self.ours], [], [], 60)
            assert ready, f"no {text!r} within a minute, only {self.unread!r}"
            self.unread += os.read(self.ours, 4096).decode(errors="replace")
        self.unread = self.unread.partition(text)[2]

    def type(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def press_ctrl_c(self) -> None:
        self.program.send_signal(signal.SIGINT)

    def close(self) -> None:
        self.program.kill()
        self.program.wait()
        os.close(self.ours)


PROGRAM = """
import sys
from vesalius.console.chat import chat_loop
from vesalius.infer.language_model import LanguageModel
chat_loop(LanguageModel.load(sys.argv[1]), max_tokens=10_000)
"""


@pytest.mark.slow
def test_ctrl_c_and_ctrl_d_in_a_real_terminal_with_a_real_model(tmp_path):
    """Ctrl-C during an answer comes back to the prompt, where the next message is answered, and Ctrl-D leaves."""
    special = {text: i for i, text in enumerate(SPECIAL_TOKENS)}
    tokenizer = Tokenizer.from_bpe(BPE({bytes([b]): b + len(special) for b in range(256)}, [], special))
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=20_000,
        norm="layer",
        tie_word_embeddings=False,
    )
    model = Transformer(config)  # LayerNorm's bias is all that reaches the head, so it says "a" without end
    torch.nn.init.zeros_(model.model.norm.weight)
    torch.nn.init.ones_(model.model.norm.bias)
    torch.nn.init.zeros_(model.lm_head.weight)
    torch.nn.init.ones_(model.lm_head.weight[tokenizer.encode("a")[0]])
    LanguageModel(model, tokenizer).save(tmp_path)
    terminal = Terminal(sys.executable, "-c", PROGRAM, str(tmp_path))
    try:
        terminal.wait_for(PROMPT)
        terminal.type("Tell me\n")
        terminal.wait_for("Tell me\r\n")
        terminal.wait_for("aaa")
        terminal.press_ctrl_c()
        terminal.wait_for("stopped)")
        terminal.wait_for(PROMPT)
        terminal.type("More\n")
        terminal.wait_for("aaa")
        terminal.press_ctrl_c()
        terminal.wait_for(PROMPT)
        terminal.type("\x04")
        assert terminal.program.wait(timeout=60) == 0
    finally:
        terminal.close()
