"""Which tool the model is to call: OpenAI's `tools` and `tool_choice`, checked, and a grammar where a call is a must.

"auto" leaves it to the model, "none" keeps the tools from it. "required" and a named function hold its answer to calls
in the style that it was trained in, with arguments that the function's JSON Schema accepts. A model that thinks may do
so before.

Every function's arguments are a schema of their own in the grammar, so that "$ref" means what it meant in `parameters`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vesalius.core.errors import UserError, nearest
from vesalius.infer.constraint_spec import ConstraintSpec, with_blanks
from vesalius.serve.tools.style import ARGS, CALL, END_CALL, TOOL_CALLS, Style

MOST_TOOLS = 128
"""As in OpenAI's API."""

MOST_CALLS = 16
"""In one answer that must be calls: a small model would go on and on."""

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

_BLANKS = r"/[ \n]{0,4}/"
"""Behind a thought."""

Tool = Mapping[str, Any]


def check_tools(tools: Any) -> list[str]:
    """The names of the functions. UserError for what is not a list of tools as in OpenAI's API."""
    if not isinstance(tools, Sequence) or isinstance(tools, str) or len(tools) > MOST_TOOLS:
        raise UserError(f"tools is not a list of at most {MOST_TOOLS} functions")
    names: list[str] = []
    for place, tool in enumerate(tools):
        name = _checked_name(f"tools[{place}]", tool)
        if name in names:
            raise UserError(f"tools[{place}] is a second function {name!r}: give each name once")
        names.append(name)
    return names


def constraint_for(
    tool_choice: Any, tools: Sequence[Tool], style: Style, *, thinking: bool = False, parallel: bool = True
) -> ConstraintSpec | None:
    """What holds the answer to the choice; None where it is free.

    tool_choice  "auto", "none", "required", None (for "auto"), or {"type": "function", "function": {"name": …}}
    thinking     whether the prompt has opened the thought
    parallel     whether it may be several calls
    UserError for any other choice, a function that is not there, or a model that knows no calls.
    """
    chosen = _chosen(tool_choice, check_tools(tools))
    if not chosen:
        return None
    if style.calls is None:
        raise UserError("this model's chat template knows no calls of tools: set tool_choice to 'none'")
    functions = [tool["function"] for tool in tools if tool["function"]["name"] in chosen]
    several = parallel and tool_choice == "required"
    return ConstraintSpec(lark=_grammar(functions, style, thinking=thinking, several=several))


def _chosen(tool_choice: Any, names: list[str]) -> list[str]:
    """The functions one of which must be called; none where none must."""
    if tool_choice in (None, "auto", "none"):
        return []
    if not names:
        raise UserError("tool_choice asks for a call, but there are no tools: give some")
    if tool_choice == "required":
        return names
    try:
        name = tool_choice["function"]["name"]
    except (TypeError, KeyError):
        raise UserError(
            f"tool_choice = {tool_choice!r}, expected 'auto', 'none', 'required' or "
            '{"type": "function", "function": {"name": …}}'
        ) from None
    if name not in names:
        raise UserError(f"tool_choice names {name!r}, which is not among the tools: {nearest(str(name), names)}")
    return [name]


def _checked_name(where: str, tool: Any) -> str:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or tool.get("type", "function") != "function":
        raise UserError(f'{where} is not {{"type": "function", "function": {{"name": …, "parameters": …}}}}')
    name, parameters = function.get("name"), function.get("parameters")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UserError(f"{where} has the name {name!r}, expected at most 64 letters, digits, _ or -")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise UserError(f"{where} ({name}) has parameters {parameters!r}, expected a JSON Schema of an object")
    if parameters and parameters.get("type", "object") != "object":
        raise UserError(f"{where} ({name}) has parameters of type {parameters['type']!r}, expected 'object'")
    if not isinstance(function.get("description", ""), str):
        raise UserError(f"{where} ({name}) has a description that is no text")
    return name


def _grammar(functions: Sequence[Mapping[str, Any]], style: Style, *, thinking: bool, several: bool) -> str:
    """In Lark's syntax, as llguidance reads it."""
    rules = []
    for place, function in enumerate(functions):
        rules.append(f"call{place}: {_call(function['name'], f'arguments{place}', style)}")
        schema = function.get("parameters") or {"type": "object", "properties": {}, "additionalProperties": False}
        rules.append(f"arguments{place}: %json {json.dumps(with_blanks({'type': 'object', **schema}))}")
    calls = " | ".join(f"call{place}" for place in range(len(functions)))
    first, between, last = _around(style)
    start = one = f"{first} call {last}"
    if several and style.calls == "mistral":
        start = f"{first} call ({between} call){{0,{MOST_CALLS - 1}}} {last}"
    elif several and style.calls != "llama3":  # its template takes one call at a time
        start = f"{one} ({between} {one}){{0,{MOST_CALLS - 1}}}"
    thought, thought_rules = _thought(style, thinking)
    return "\n".join([f"start: {thought}{start}", f"call: {calls}", *rules, *thought_rules])


def _call(name: str, arguments: str, style: Style) -> str:
    """One call without its marks."""
    if style.calls == "mistral_args":
        return f"{_text(name)} {_mark(ARGS, style)} {arguments}"
    key = "parameters" if style.calls == "llama3" else "arguments"
    head = json.dumps({"name": name})[:-1] + f', "{key}": '
    return f'{_text(head)} {arguments} "}}"'


def _around(style: Style) -> tuple[str, str, str]:
    """What stands before the calls, between them, and behind."""
    if style.calls == "hermes":
        return f'{_mark(CALL, style)} "\\n"', '"\\n"', f'"\\n" {_mark(END_CALL, style)}'
    if style.calls == "llama3":
        return "", "", ""
    if style.calls == "mistral":
        return f'{_mark(TOOL_CALLS, style)} " "? "["', '", "', '"]"'
    return _mark(TOOL_CALLS, style), "", ""


def _thought(style: Style, thinking: bool) -> tuple[str, list[str]]:
    """How the answer begins with a thought, if the model has any, and the rules for it."""
    if style.thought is None:
        return "", []
    opening, closing = style.thought
    if (token := dict(style.special).get(closing)) is not None:
        rules = [f"thought: /(?s:.*)/ <[{token}]> {_BLANKS}"]
    else:
        rules = [f"thought: free {_BLANKS}", f"free[suffix={_text(closing)}]: /(?s:.*)/"]
    return ("thought ", rules) if thinking else (f"({_mark(opening, style)} thought)? ", rules)


def _mark(mark: str, style: Style) -> str:
    """A special token stands in a grammar by its id."""
    token = dict(style.special).get(mark)
    return _text(mark) if token is None else f"<[{token}]>"


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
