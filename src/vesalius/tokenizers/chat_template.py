"""Chat templates: Jinja programs that write a conversation as one text, with the special tokens between the turns.

A template comes with a model, so it is a stranger's code: jinja2's immutable sandbox runs it. It finds what templates
are written against (transformers, "Writing a chat template"): `messages`, `tools`, `add_generation_prompt`, `bos_token`
and the like, `raise_exception`, `strftime_now`, `tojson` without HTML escapes, `break` and `continue`, and
`{% generation %}` blocks around what the assistant says.

Three noncharacters, which Unicode keeps for the inside of programs, carry what plain text cannot: where an assistant
block begins and ends, and that what looks like a special token was written by somebody in a message (see `defuse`).
They pass through joins, macros and trims, where counting characters goes wrong. In a message they become U+FFFD.
"""

import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.sandbox

from vesalius.core.errors import UserError, nearest

CHATML = (Path(__file__).parent / "chatml.jinja").read_text("utf-8")
"""The template that our own models are trained with."""

ROLES = ("system", "developer", "user", "assistant", "tool")

REASONING = ("reasoning_content", "thinking", "reasoning")
"""What a message may call the assistant's thoughts before its answer."""

BREAK, SAID, END_SAID = "\ufdd0", "\ufdd1", "\ufdd2"
_MARKS = re.compile(f"[{BREAK}{SAID}{END_SAID}]")

Messages = Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]]


def render_chat(
    messages: Messages,
    template: str,
    *,
    tools: Tools | None = None,
    add_generation_prompt: bool = False,
    named_tokens: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> str:
    """The conversation as text.

    named_tokens  the template's variables for special tokens, such as `bos_token`
    options       its other variables, such as `enable_thinking`

    UserError where a role is unknown, a content is missing, the template is broken or refuses the conversation, or it
    does not know an option.

    >>> render_chat([{"role": "user", "content": "Hi"}], CHATML, add_generation_prompt=True)
    '<|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\n'
    """
    check_messages(messages)
    marked = render_marked(
        defuse(messages, []),
        template=template,
        tools=defuse(tools, []),
        add_generation_prompt=add_generation_prompt,
        named_tokens=named_tokens or {},
        options=defuse(options or {}, []),
    )
    return _MARKS.sub("", marked)


def render_marked(
    messages: Messages,
    *,
    template: str,
    tools: Tools | None,
    add_generation_prompt: bool,
    named_tokens: Mapping[str, str],
    options: Mapping[str, Any],
) -> str:
    """`render_chat` with the marks left in, for messages, tools and options that have been checked and been through
    `defuse`."""
    program = _compile(template)
    if tools and "tools" not in _variables(template):
        raise UserError(
            "this model's chat template knows no tools: leave them out, or take a model that was trained to call them"
        )
    given = {
        "messages": [_with_reasoning(message) for message in messages],
        "tools": tools,
        "add_generation_prompt": add_generation_prompt,
    }
    _check_options(options, _variables(template) - {*given, *named_tokens, *_environment().globals})
    variables = {**named_tokens, **options, **given}
    try:
        return program.render(variables)
    except (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"the chat template cannot write this conversation: {error}") from error


def check_messages(messages: Messages) -> None:
    """UserError unless every message is a mapping with a known role and a content, or tool calls in its place."""
    if not messages:
        raise UserError("the conversation is empty, expected at least one message with a role and a content")
    for place, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise UserError(f"message {place} is {message!r}, expected a dict with a role and a content")
        role = message.get("role")
        if role not in ROLES:
            raise UserError(f"message {place} has role {role!r}, {nearest(str(role), ROLES)}")
        if message.get("content") is None and not message.get("tool_calls"):
            raise UserError(f'message {place} ({role}) has no content, expected text: add "content"')


@functools.lru_cache(maxsize=32)
def words_sought(template: str) -> frozenset[str]:
    """Texts that the template takes a message apart at, as in `content.split('</think>')`.

    Where such a text is a special token it must stay whole in a message, or the template would not find it.
    """
    calls = _environment().parse(template).find_all(jinja2.nodes.Call)
    return frozenset(
        word.value
        for call in calls
        if isinstance(call.node, jinja2.nodes.Getattr) and call.node.attr in ("split", "rsplit", "partition")
        for word in call.args
        if isinstance(word, jinja2.nodes.Const) and isinstance(word.value, str)
    )


def defuse(value: Any, special_tokens: Iterable[str]) -> Any:
    """A copy of JSON-like data whose strings cannot make up a special token, not even joined to each other.

    BREAK goes between the characters of each special token, behind a string that ends as one begins, and before a
    string that begins as one ends. What is left is a template that writes both sides of a special token around a word.
    """
    special_tokens = tuple(special_tokens)
    if isinstance(value, str):
        return _defuse_text(value, special_tokens)
    if isinstance(value, Mapping):
        return {defuse(key, special_tokens): defuse(item, special_tokens) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [defuse(item, special_tokens) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    raise UserError(f"a conversation holds {value!r}, expected only what JSON knows: text, numbers, lists and dicts")


def marks_assistant(template: str) -> bool:
    """Whether the template itself says which part is the assistant's."""
    return re.search(r"\{%[-+]?\s*generation\s*[-+]?%\}", template) is not None


def _with_reasoning(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """The message with its reasoning under every name that templates read it by, as transformers has it."""
    reasoning = next((message[name] for name in REASONING if message.get(name) is not None), None)
    if reasoning is None:
        return message
    return {"thinking": reasoning, **message, "reasoning_content": reasoning}


def _check_options(options: Mapping[str, Any], known: set[str]) -> None:
    """UserError with the nearest name for an option that the template never reads."""
    if unknown := next((name for name in options if name not in known), None):
        raise UserError(f"this model's chat template has no option {unknown!r}: {nearest(unknown, known)}")


def _defuse_text(text: str, special_tokens: tuple[str, ...]) -> str:
    whole, heads, tails = _danger(special_tokens)
    text = _MARKS.sub("\ufffd", text)
    before = BREAK if text.startswith(tails) else ""
    after = BREAK if text.endswith(heads) else ""
    return before + whole.sub(lambda match: "".join(char + BREAK for char in match[0]), text) + after


@functools.lru_cache(maxsize=32)
def _danger(special_tokens: tuple[str, ...]) -> tuple[re.Pattern[str], tuple[str, ...], tuple[str, ...]]:
    """A pattern that matches special tokens; all their proper beginnings; all their proper ends."""
    whole = "|".join(re.escape(token) for token in sorted(special_tokens, key=len, reverse=True))
    heads = {token[:end] for token in special_tokens for end in range(1, len(token))}
    tails = {token[start:] for token in special_tokens for start in range(1, len(token))}
    return re.compile(whole or "(?!)"), tuple(heads), tuple(tails)


class _Generation(jinja2.ext.Extension):
    """`{% generation %} … {% endgeneration %}`: the text between, with SAID and END_SAID around it."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: jinja2.runtime.Macro) -> str:
        return SAID + caller() + END_SAID


@functools.lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


@functools.lru_cache(maxsize=32)
def _compile(template: str) -> jinja2.Template:
    try:
        return _environment().from_string(template)
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"the chat template is not valid Jinja: line {error.lineno}: {error.message}") from error


@functools.lru_cache(maxsize=32)
def _variables(template: str) -> set[str]:
    return jinja2.meta.find_undeclared_variables(_environment().parse(template))


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON as the models have seen it: jinja2's own filter escapes for HTML. Marks stay marks under `ensure_ascii`."""
    text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys)
    if not ensure_ascii:
        return text
    return re.sub(f"[^\x00-\x7f{BREAK}]", lambda match: json.dumps(match.group())[1:-1], text)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)
