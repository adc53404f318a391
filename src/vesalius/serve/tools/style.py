"""How a model writes thoughts and calls of tools into its text: each family has its own marks.

    hermes       <tool_call>{"name": …, "arguments": {…}}</tool_call>, again for each call (Qwen, Hermes, SmolLM2)
    llama3       {"name": …, "parameters": {…}}, after <|python_tag|> or alone, the next one behind a semicolon
    mistral      [TOOL_CALLS] [{"name": …, "arguments": {…}}, …]
    mistral_args [TOOL_CALLS]name[ARGS]{…}, again for each call

Which one it is shows in what its chat template writes, and in the special tokens of its vocabulary. Where a mark is a
special token, it has no text unless the detokenizer is told to show it: `Style.shown`.
Left out: DeepSeek's marks, and calls written as Python.
"""

from dataclasses import dataclass
from typing import Literal

from vesalius.tokenizers.tokenizer import Tokenizer

CallStyle = Literal["hermes", "llama3", "mistral", "mistral_args"]

CALL, END_CALL = "<tool_call>", "</tool_call>"
PYTHON_TAG = "<|python_tag|>"
TOOL_CALLS, ARGS, CALL_ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
THOUGHTS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))


@dataclass(frozen=True)
class Style:
    """What to look for in a model's text.

    calls    how it calls tools; None where it knows none
    thought  what stands before and behind its thoughts; None where it has none
    special  text -> id of the marks that are special tokens
    """

    calls: CallStyle | None = None
    thought: tuple[str, str] | None = None
    special: tuple[tuple[str, int], ...] = ()

    @property
    def shown(self) -> tuple[str, ...]:
        """The special tokens that `Detokenizer` has to show."""
        return tuple(text for text, _ in self.special)

    def opens_thought(self, prompt: str) -> bool:
        """Whether a prompt ends where the model is to think: its template has opened the thought."""
        return self.thought is not None and prompt.rstrip().endswith(self.thought[0])


def style_of(tokenizer: Tokenizer) -> Style:
    """The style of a model, told by its chat templates and its vocabulary."""
    templates = "\n".join(tokenizer.chat_templates.values())
    added = {token.content for token in tokenizer.added_tokens.values()}
    thought = next((pair for pair in THOUGHTS if pair[1] in templates or pair[1] in added), None)
    marks = (CALL, END_CALL, PYTHON_TAG, TOOL_CALLS, ARGS, CALL_ID, *(thought or ()))
    special = tuple((mark, tokenizer.special_tokens[mark]) for mark in marks if mark in tokenizer.special_tokens)
    return Style(_calls(templates, added), thought, special)


def _calls(templates: str, added: set[str]) -> CallStyle | None:
    if "tools" not in templates and "tool_calls" not in templates:
        return None
    if CALL in templates:
        return "hermes"
    if TOOL_CALLS in templates:
        return "mistral_args" if ARGS in templates else "mistral"
    if PYTHON_TAG in templates or PYTHON_TAG in added or '"parameters": ' in templates:
        return "llama3"
    return None
