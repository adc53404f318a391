"""A conversation as token ids, and which of them the assistant said. Training, chat and server all come here.

The ids are those of the rendered text (`chat_template.py`), except for two things that matter:

- Special tokens are only those that the template writes. "<|im_end|>" inside a message stays the characters that it is
  made of, so nobody can end a turn, or open one as the system, from inside of one.
- No token reaches across the border of what the assistant says. A prompt ends there; were a model trained on a token
  that joins the prompt's last line end to an answer that begins with one, it would learn from prompts that it never
  gets. This way training ids are the prompt's ids followed by exactly the ids that the model has to generate.

The border comes from the template's `{% generation %}` blocks. Without them a turn is what the text up to and including
it adds to the text before it with the generation prompt, where the one truly begins with the other. It ends with the
end-of-turn token: a line end that the template writes after that is nothing that a model has to say.

Every part knows what stands before it, so that the blank that SentencePiece vocabularies put before a text, and some
after each special token, is where it is in the whole text.
"""

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vesalius.core.errors import UserError
from vesalius.tokenizers.chat_template import (
    BREAK,
    CHATML,
    END_SAID,
    SAID,
    Messages,
    Tools,
    check_messages,
    defuse,
    marks_assistant,
    render_chat,
    render_marked,
    words_sought,
)
from vesalius.tokenizers.tokenizer import Before, Tokenizer

__all__ = ["CHATML", "ChatIds", "encode_chat", "render_chat"]

Render = Callable[..., str]


@dataclass(frozen=True)
class ChatIds:
    """ids (T,) of a conversation; assistant_mask (T,): whether the assistant said that token, end of turn included."""

    ids: list[int]
    assistant_mask: list[bool]


def encode_chat(
    tokenizer: Tokenizer,
    messages: Messages,
    *,
    tools: Tools | None = None,
    add_generation_prompt: bool = False,
    options: Mapping[str, Any] | None = None,
) -> ChatIds:
    """Ids and assistant mask of a conversation, ending where the assistant is to go on if `add_generation_prompt`.
    `options` are the template's other variables, such as `enable_thinking`.

    UserError where the tokenizer has no chat template, a message is malformed, the template refuses the conversation or
    knows no such option, or (without `add_generation_prompt`) it cannot be told what the assistant said.
    """
    template = tokenizer.require_chat_template(tools)
    check_messages(messages)
    messages, tools, options = defuse([messages, tools, options or {}], _written_by_template_only(tokenizer, template))
    render = functools.partial(
        render_marked, template=template, tools=tools, named_tokens=tokenizer.named_tokens, options=options
    )
    text = render(messages, add_generation_prompt=add_generation_prompt)
    if not marks_assistant(template):
        try:
            text = _mark_by_prefixes(text, messages, render, tokenizer)
        except UserError:
            if not add_generation_prompt:  # a prompt can do without
                raise
    ids: list[int] = []
    mask: list[bool] = []
    for part, said in _parts(text):
        new = _encode_part(tokenizer, part, _before(tokenizer, ids))
        ids += new
        mask += [said] * len(new)
    return ChatIds(ids, mask)


def _written_by_template_only(tokenizer: Tokenizer, template: str) -> list[str]:
    """The special tokens that no message may write: all but those that the template itself looks for in messages, such
    as the end of a thought, and that end no answer."""
    sought = words_sought(template)
    return [
        text for text, token in tokenizer.special_tokens.items() if text not in sought or token in tokenizer.eos_ids
    ]


def _before(tokenizer: Tokenizer, ids: Sequence[int]) -> Before:
    """What the next part goes on after."""
    if not ids:
        return "nothing"
    return "added" if ids[-1] in tokenizer.added_tokens else "text"


def _parts(text: str) -> Iterator[tuple[str, bool]]:
    """The text between the marks, and whether the assistant said it."""
    said = False
    for part in re.split(f"([{SAID}{END_SAID}])", text):
        if part in (SAID, END_SAID):
            said = part == SAID
        elif part:
            yield part, said


def _encode_part(tokenizer: Tokenizer, text: str, after: Before) -> list[int]:
    """Ids of one part. Only where a message holds a special token must the template's own be told apart by hand."""
    if BREAK not in text:
        return tokenizer.encode(text, allow_special=True, after=after)
    specials = sorted(tokenizer.special_tokens, key=len, reverse=True)
    pieces = re.split(f"({'|'.join(map(re.escape, specials))})", text)  # text and special tokens by turns
    ids: list[int] = []
    for place in range(0, len(pieces), 2):
        plain = pieces[place].replace(BREAK, "")
        if place and tokenizer.added_tokens[ids[-1]].rstrip:
            plain = plain.lstrip()
        special = tokenizer.special_tokens[pieces[place + 1]] if place + 1 < len(pieces) else None
        if special is not None and tokenizer.added_tokens[special].lstrip:
            plain = plain.rstrip()
        ids += tokenizer.encode(plain, after="added" if place else after)
        ids += [] if special is None else [special]
    return ids


def _mark_by_prefixes(text: str, messages: Messages, render: Render, tokenizer: Tokenizer) -> str:
    """The text with marks around what each assistant message adds. UserError where that cannot be told."""
    ends = [special for special, token in tokenizer.special_tokens.items() if token in tokenizer.eos_ids]
    marked, done = "", 0
    for place, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = render(messages[:place], add_generation_prompt=True)
        through = render(messages[: place + 1], add_generation_prompt=False)
        if not (text.startswith(through) and through.startswith(before)):
            raise UserError(
                f"cannot tell what the assistant says in message {place}: this chat template writes a turn differently "
                "when it asks for it or when more follows; put {% generation %} blocks into the template"
            )
        said = _up_to_end_of_turn(through[len(before) :], ends)
        marked += text[done : len(before)] + SAID + said + END_SAID
        done = len(before) + len(said)
    return marked + text[done:]


def _up_to_end_of_turn(said: str, ends: list[str]) -> str:
    """`said` without what follows its last end-of-turn token; all of it where it has none."""
    end = max((said.rfind(token) + len(token) for token in ends if token in said), default=len(said))
    return said[:end]
