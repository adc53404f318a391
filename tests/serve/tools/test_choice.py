"""Tools and the choice among them: what is refused, and that forced answers are calls with valid arguments."""

import json

import jsonschema
import pytest
import torch
from vocabularies import bytes_only

from vesalius.core.errors import UserError
from vesalius.infer.constrain import compile_constraint
from vesalius.infer.detokenize import Detokenizer
from vesalius.serve.tools.choice import check_tools, constraint_for
from vesalius.serve.tools.parsing import AnswerParser
from vesalius.serve.tools.style import Style

DIGIT = {"type": "integer", "minimum": 0, "maximum": 9}
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"a": {"$ref": "#/$defs/digit"}, "b": {"$ref": "#/$defs/digit"}},
            "required": ["a"],
            "additionalProperties": False,
            "$defs": {"digit": DIGIT},
        },
    },
}
NOW = {"type": "function", "function": {"name": "now", "description": "The time."}}
TOOLS = [ADD, NOW]
MARKS = ("<tool_call>", "</tool_call>", "<think>", "</think>", "[TOOL_CALLS]", "[ARGS]")
MODEL = bytes_only(("<|endoftext|>", "<|im_end|>", *MARKS))
THINK = ("<think>", "</think>")


def special(*marks: str) -> tuple[tuple[str, int], ...]:
    return tuple((mark, MODEL.special_tokens[mark]) for mark in marks)


STYLES = {
    "hermes": Style("hermes"),
    "hermes, special": Style("hermes", None, special("<tool_call>", "</tool_call>")),
    "thinking": Style("hermes", THINK, special(*MARKS[:4])),
    "thinking in text": Style("hermes", THINK),
    "llama3": Style("llama3"),
    "mistral": Style("mistral"),
    "mistral, special": Style("mistral", None, special("[TOOL_CALLS]")),
    "mistral_args": Style("mistral_args", None, special("[TOOL_CALLS]", "[ARGS]")),
}


def answer(spec, style, seed, thinking=False):
    """The deltas of a random answer; None where it did not end by itself."""
    constraint, generator = compile_constraint(MODEL, spec), torch.Generator().manual_seed(seed)
    text, parser = Detokenizer(MODEL, shown=style.shown), AnswerParser(style, ["add", "now"], thinking=thinking)
    deltas = []
    likely = torch.zeros(MODEL.vocab_size)
    likely[[*MODEL.eos_ids, *(token for mark, token in style.special), *MODEL.encode("</think>")]] += 5  # thoughts end
    for _ in range(600):
        constraint.prepare()
        scores = constraint.apply(torch.randn(MODEL.vocab_size, generator=generator) + likely)
        token = int(scores.softmax(-1).multinomial(1, generator=generator))
        constraint.accept(token)
        deltas += parser.push(text.push(token))
        if token in MODEL.eos_ids:
            return deltas + parser.push(text.close()) + parser.close()
    return None


def calls_of(deltas):
    calls = [delta.tool_call for delta in deltas if delta.tool_call]
    return list(zip([call.name for call in calls[::2]], [json.loads(c.arguments) for c in calls[1::2]], strict=True))


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("name", STYLES)
def test_an_answer_that_must_call_is_calls_with_valid_arguments(name, thinking):
    style = STYLES[name]
    thinking = thinking and style.thought is not None
    spec = constraint_for("required", TOOLS, style, thinking=thinking)
    answers = [deltas for seed in range(6) if (deltas := answer(spec, style, seed, thinking)) is not None]
    assert len(answers) > 2 or name == "thinking in text"  # random bytes seldom spell out the end of a thought
    for deltas in answers:
        assert not any(delta.content for delta in deltas)
        calls = calls_of(deltas)
        assert calls
        for called, arguments in calls:
            assert called in ("add", "now")
            jsonschema.validate(arguments, ADD["function"]["parameters"] if called == "add" else {"maxProperties": 0})


def test_a_named_function_is_called_once():
    spec = constraint_for({"type": "function", "function": {"name": "add"}}, TOOLS, Style("hermes"))
    for seed in range(5):
        assert [name for name, _ in calls_of(answer(spec, Style("hermes"), seed))] == ["add"]


@pytest.mark.parametrize("name", ["hermes", "mistral", "mistral_args"])
def test_several_calls_only_where_they_are_wanted(name):
    style = STYLES[name]
    counts = {}
    for parallel in (True, False):
        spec = constraint_for("required", TOOLS, style, parallel=parallel)
        found = (answer(spec, style, seed) for seed in range(12))
        counts[parallel] = {len(calls_of(deltas)) for deltas in found if deltas is not None}
    assert max(counts[True]) > 1
    assert counts[False] == {1}


def test_a_free_choice_holds_the_answer_to_nothing():
    for choice in ("auto", "none", None):
        assert constraint_for(choice, TOOLS, Style("hermes")) is None


@pytest.mark.parametrize(
    ("choice", "tools", "style", "message"),
    [
        ("required", [], Style("hermes"), "there are no tools"),
        ("must", TOOLS, Style("hermes"), "tool_choice = 'must', expected 'auto'"),
        ({"function": {"name": "ad"}}, TOOLS, Style("hermes"), "names 'ad', .* did you mean 'add'"),
        ("required", TOOLS, Style(), "knows no calls of tools"),
    ],
)
def test_choices_that_make_no_sense_are_refused(choice, tools, style, message):
    with pytest.raises(UserError, match=message):
        constraint_for(choice, tools, style)


def function(**fields):
    return [{"type": "function", "function": {"name": "f", **fields}}]


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ("add", "not a list of at most 128"),
        ([NOW] * 2, r"tools\[1\] is a second function 'now'"),
        ([{"type": "search"}], r"tools\[0\] is not"),
        ([{"name": "f"}], r"tools\[0\] is not"),
        (function(name="a b"), "has the name 'a b', expected at most 64"),
        (function(parameters=[1]), r"has parameters \[1\]"),
        (function(parameters={"type": "array"}), "of type 'array', expected 'object'"),
        (function(description=3), "description that is no text"),
        (function() * 129, "at most 128"),
    ],
)
def test_tools_that_make_no_sense_are_refused(tools, message):
    with pytest.raises(UserError, match=message):
        check_tools(tools)
    assert check_tools(TOOLS) == ["add", "now"]
