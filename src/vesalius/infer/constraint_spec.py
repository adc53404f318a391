"""What an answer has to look like: a JSON Schema, any JSON object, a regular expression, a grammar, a choice of texts.

Each becomes a grammar of the library llguidance (its docs/syntax.md and docs/json_schema.md), whose rules hold: a
regular expression is one of Rust's `regex` crate, without look-around, that matches the whole answer, with \\d, \\w and
\\s as Python's `re.ASCII` has them; a grammar is in Lark's syntax, begins at `start`, and may name a special token as
`<|python_tag|>` and a schema as `%json {…}`; a keyword of JSON Schema that the library cannot hold to is an error.

Between the parts of a JSON text at most one blank, or one line end and an indent, may stand: the library's own rule
allows blanks without end, and a small model would write them until its tokens are used up.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from llguidance import regex_to_lark

from vesalius.core.errors import UserError

BLANKS = r" |\r?\n[ \t]{0,64}"
"""What may stand between the parts of a JSON text, besides nothing; a schema's own "x-guidance" goes before it."""

MOST_BYTES = 1 << 20
"""Of a schema, expression or grammar, and of all choices together."""


@dataclass(frozen=True, kw_only=True)
class ConstraintSpec:
    """What an answer has to look like; exactly one of these is given. UserError otherwise, and for one that is too big.

    json_schema  the answer is a JSON text that this JSON Schema (a mapping, or True for any JSON text) accepts
    json_object  True: the answer is a JSON object
    regex        the whole answer matches this regular expression
    lark         the answer is a text of this grammar
    choices      the answer is one of these texts

    Whether the library can read it is found out by `constrain.compile_constraint`.
    """

    json_schema: Mapping[str, Any] | bool | None = None
    json_object: bool = False
    regex: str | None = None
    lark: str | None = None
    choices: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        given = [field.name for field in fields(self) if getattr(self, field.name) not in (None, False)]
        if self.json_schema is False:
            raise UserError("json_schema = false accepts nothing, so there is no answer to write: give a schema")
        if len(given) != 1:
            names = ", ".join(field.name for field in fields(self))
            raise UserError(f"got {' and '.join(given) or 'nothing'} to hold an answer to, expected one of: {names}")
        expected, valid = _EXPECTED[given[0]]
        if not valid(value := getattr(self, given[0])):
            raise UserError(f"{given[0]} is {_shown(value)}, expected {expected}")
        if (size := len(self.grammar.encode("utf-8", "surrogatepass"))) > MOST_BYTES:
            raise UserError(f"{given[0]} has {size} bytes, expected at most {MOST_BYTES}: give a smaller one")

    @cached_property
    def grammar(self) -> str:
        """It as the library's text, which also tells two of them apart.

        >>> ConstraintSpec(choices=("yes", "no")).grammar
        '{"grammars": [{"name": "answer", "lark_grammar": "start: \\\\"yes\\\\" | \\\\"no\\\\""}]}'
        """
        if self.json_schema is not None or self.json_object:
            schema = self.json_schema if self.json_schema is not None else {"type": "object"}
            part: dict[str, Any] = {"json_schema": with_blanks(schema)}
        elif self.regex is not None:
            part = {"lark_grammar": f"start: /{regex_to_lark(self.regex, 'dws')}/"}
        elif self.choices is not None:
            part = {
                "lark_grammar": "start: " + " | ".join(json.dumps(text, ensure_ascii=False) for text in self.choices)
            }
        else:
            part = {"lark_grammar": self.lark}
        try:
            text = json.dumps({"grammars": [{"name": "answer", **part}]}, ensure_ascii=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise UserError(f"json_schema is not JSON ({error}): give only text, numbers, lists and dicts") from error
        return _encodable(text, "a text")


def with_blanks(schema: Mapping[str, Any] | bool) -> dict[str, Any]:
    """A schema that says how its JSON is to be written. UserError where its own word on that is no mapping."""
    asked = dict(schema) if isinstance(schema, Mapping) else {}
    guidance: Any = asked.get("x-guidance", {})
    if not isinstance(guidance, Mapping):
        raise UserError(f"x-guidance in the schema is {_shown(guidance)}, expected a mapping")
    return {**asked, "x-guidance": {"whitespace_pattern": BLANKS, **guidance}}


def _encodable(text: str, what: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(f"{what} to hold an answer to has half a surrogate pair, which UTF-8 cannot write: remove it")
    return text


def _are_choices(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and all(isinstance(text, str) and text for text in value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


_EXPECTED = {
    "json_schema": ("a JSON Schema as a mapping", lambda value: value is True or isinstance(value, Mapping)),
    "json_object": ("True or False", lambda value: value is True),
    "regex": ("a regular expression as text", lambda value: isinstance(value, str)),
    "lark": ("a Lark grammar as text", lambda value: isinstance(value, str)),
    "choices": ("a tuple of texts, none of them empty", _are_choices),
}
