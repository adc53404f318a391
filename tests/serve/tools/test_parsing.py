"""Answers taken apart: what is thought, content and call, and that it does not depend on where pieces end."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vesalius.serve.tools.parsing import AnswerParser
from vesalius.serve.tools.style import Style

THINK = ("<think>", "</think>")
HERMES, LLAMA, MISTRAL = Style("hermes"), Style("llama3"), Style("mistral")
TOOLS = ("add", "now")


def parsed(style, pieces, *, tools=TOOLS, thinking=False):
    """content, thought and calls (name, arguments), joined as a client joins them."""
    numbers = itertools.count()
    parser = AnswerParser(style, tools, thinking=thinking, make_id=lambda: f"id{next(numbers)}")
    deltas = [delta for piece in pieces for delta in parser.push(piece)] + parser.close()
    content = "".join(delta.content or "" for delta in deltas)
    thought = "".join(delta.reasoning_content or "" for delta in deltas)
    calls: list[list[str]] = []
    for call in (delta.tool_call for delta in deltas if delta.tool_call):
        if call.name is not None:
            assert (call.index, call.arguments) == (len(calls), "")
            assert call.id is not None
            calls.append([call.name, ""])
        else:
            assert call.index == len(calls) - 1
            assert call.id is None
            calls[-1][1] += call.arguments
    assert parser.called == len(calls)
    return content, thought, [tuple(call) for call in calls]


ADD, NOW = ("add", '{"a": "}</tool_call>"}'), ("now", "{}")
CASES = [
    (HERMES, "Hi.", "Hi.", []),
    (HERMES, '<tool_call>\n{"name": "add", "arguments": {"a": "}</tool_call>"}}\n</tool_call>', "", [ADD]),
    (
        HERMES,
        'I see.\n\n<tool_call>\n{"name": "now"}\n</tool_call> <tool_call>{"parameters": {}, "name": "now"}</tool_call>',
        "I see.",
        [NOW, NOW],
    ),
    (HERMES, '<tool_call>{"name": "now"}', "", [NOW]),
    (HERMES, 'a <tool_call>{"name": "now"}</tool_call> b', "a b", [NOW]),
    (LLAMA, '{"name": "now", "parameters": {}}', "", [NOW]),
    (LLAMA, ' {"name": "now", "parameters": {}}; {"type": "f", "name": "now", "parameters": {}}', "", [NOW, NOW]),
    (LLAMA, '<|python_tag|>{"name": "now", "parameters": {}}', "", [NOW]),
    (LLAMA, 'So: <|python_tag|>{"name": "now", "parameters": {}}; later', "So:; later", [NOW]),
    (MISTRAL, '[TOOL_CALLS] [{"name": "now", "arguments": {}}, {"name": "now", "arguments": {}}]', "", [NOW, NOW]),
    (MISTRAL, '[TOOL_CALLS]now[ARGS]{}[TOOL_CALLS]now[CALL_ID]abcdefghi[ARGS]{}', "", [NOW, NOW]),
    (MISTRAL, "Well[TOOL_CALLS]now{}", "Well", [NOW]),
]  # fmt: skip


@pytest.mark.parametrize(("style", "text", "content", "calls"), CASES)
def test_calls_are_found_in_every_style_whole_and_character_by_character(style, text, content, calls):
    assert parsed(style, [text]) == parsed(style, text) == (content, "", calls)


@pytest.mark.parametrize(
    ("style", "text"),
    [
        (HERMES, 'Write <tool_call> and\n</tool_call>, or <tool_call>{"a": 1}</tool_call>. '),
        (HERMES, '  <tool_call>\n{"name": "add", "arguments": {"a": 1'),
        (HERMES, "<tool_call>{'name': 'add'}</tool_call>"),
        (HERMES, '{"name": "now", "arguments": {}}'),
        (HERMES, "a < b <tool"),
        (LLAMA, '{"name": "other", "parameters": {}}'),
        (LLAMA, '{"name": "now"}'),
        (LLAMA, 'First: {"name": "now", "parameters": {}}'),
        (LLAMA, "<|python_tag|>print(1)"),
        (LLAMA, " \n"),
        (MISTRAL, '[TOOL_CALLS] [{"name": "add", "arguments": 3}]'),
        (MISTRAL, "[TOOL_CALLS] " + "x" * 300 + "{}"),
        (MISTRAL, "[TOOL_CALLS]now[ARGS]{]"),
        (Style(), '<tool_call>{"name": "now"}</tool_call> \n'),
    ],
)
def test_what_only_looks_like_a_call_stays_content_to_the_letter(style, text):
    assert parsed(style, [text]) == parsed(style, text) == (text, "", [])


def test_without_tools_nothing_is_a_call():
    text = '<tool_call>{"name": "now"}</tool_call>\n'
    assert parsed(HERMES, text, tools=()) == (text, "", [])


@pytest.mark.parametrize(
    ("text", "thinking", "content", "thought"),
    [
        ("<think>\nhm\n\nhm\n</think>\n\nYes.\n", False, "Yes.\n", "hm\n\nhm"),
        ("\n<think></think>Yes", False, "Yes", ""),
        ("hm\n</think>\n\nYes", True, "Yes", "hm"),
        ("hm </thin k> hm ", True, "", "hm </thin k> hm"),
        ("<think>hm", False, "", "hm"),
        ("Yes <think>no</think>", False, "Yes <think>no</think>", ""),
        ("  \n", False, "  \n", ""),
        ("<thin", False, "<thin", ""),
        ("", True, "", ""),
    ],
)
def test_thoughts_are_told_apart(text, thinking, content, thought):
    style = Style("hermes", THINK)
    assert parsed(style, [text], thinking=thinking) == parsed(style, text, thinking=thinking) == (content, thought, [])


def test_a_call_follows_a_thought_and_one_inside_it_is_none():
    call = '<tool_call>{"name": "now"}</tool_call>'
    assert parsed(Style("hermes", THINK), f"<think>I could {call}.</think>\n{call}") == ("", f"I could {call}.", [NOW])
    bare = '</think>\n{"name": "now", "parameters": {}}'
    assert parsed(Style("llama3", THINK), bare, thinking=True) == ("", "", [NOW])


PARTS = st.sampled_from(
    [
        "<tool_call>", "</tool_call>", "<tool", "_call>", "<", "\n", " ", "Hi", "{", "}", "[", "]", '"', "\\", ",", ";",
        "{}", '{"name": "now"}', '{"name": "add", "arguments": {"a": "</tool_call>"}}',
        '{"name": "add", "parameters": {"a": [1]}}',
        "<think>", "</think>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "now", '[{"name": "now", "arguments": {}}]',
    ]
)  # fmt: skip


@settings(max_examples=600, deadline=None)
@given(
    text=st.lists(PARTS, max_size=14).map("".join),
    cuts=st.lists(st.integers(0, 120), max_size=12),
    style=st.sampled_from(
        [Style(calls, thought) for calls in ("hermes", "llama3", "mistral", None) for thought in (THINK, None)]
    ),
    thinking=st.booleans(),
)
def test_the_deltas_joined_do_not_depend_on_the_pieces(text, cuts, style, thinking):
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(places)]
    whole = parsed(style, [text], thinking=thinking)
    assert parsed(style, pieces, thinking=thinking) == whole
    assert parsed(style, text, thinking=thinking) == whole
    assert all(isinstance(json.loads(arguments), dict) for _, arguments in whole[2])


@given(text=st.text(max_size=60))
def test_text_without_marks_is_given_out_unchanged_and_at_once_but_for_blanks(text):
    parser = AnswerParser(HERMES, TOOLS)
    now = "".join(delta.content or "" for delta in parser.push(text + "."))
    assert now == text + "."
    assert parser.close() == []


def test_half_a_mark_is_never_given_out():
    parser = AnswerParser(HERMES, TOOLS)
    told = [[delta.content for delta in parser.push(piece)] for piece in ("a <", "tool_", "c", "ake> \n", "b")]
    assert told == [["a"], [], [], [" <tool_cake>"], [" \nb"]]


def test_ids_that_the_model_wrote_are_kept():
    deltas = AnswerParser(MISTRAL, TOOLS).push('[TOOL_CALLS] [{"name": "now", "arguments": {}, "id": "abcdefghi"}]')
    assert deltas[0].tool_call.id == "abcdefghi"
