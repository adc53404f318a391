"""Calls as JSON: where an object ends, and what in it is a call."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vesalius.serve.tools.calls import Call, Extent, new_id, read_call, read_calls

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(['"', "\\", "}", "{[", '\\"']),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=3), VALUES, max_size=3)


@given(
    value=OBJECTS | st.lists(VALUES, max_size=3), tail=st.text(), cuts=st.lists(st.integers(0, 60)), ascii=st.booleans()
)
def test_an_object_ends_where_the_library_says(value, tail, cuts, ascii):
    text = json.dumps(value, ensure_ascii=ascii) + tail
    extent = Extent()
    found = [extent.end(text[:cut]) for cut in sorted(cuts) if cut <= len(text)]
    ends = [end for end in [*found, extent.end(text)] if end is not None]
    assert ends[0] == json.JSONDecoder().raw_decode(text)[1]


@given(OBJECTS, st.sampled_from([None, 2]))
def test_arguments_keep_their_text(arguments, indent):
    text = json.dumps(arguments, indent=indent)
    assert read_call(f'{{ "arguments" : {text} , "name":"f"}}') == Call("f", text)
    assert read_calls(f'[{{"name": "f", "arguments": {text}}},\n{{"name": "g", "parameters": {text}}} ]') == [
        Call("f", text),
        Call("g", text),
    ]


def test_arguments_may_be_written_as_a_string_or_left_out():
    assert read_call('{"name": "f", "arguments": "{\\"a\\": 1}"}') == Call("f", '{"a": 1}')
    assert read_call('{"name": "f"}') == Call("f", "{}")
    assert read_call('{"name": "f"}', needs_arguments=True) is None
    assert read_call('{"name": "f", "arguments": {}, "id": "abcdefghi"}') == Call("f", "{}", "abcdefghi")


@pytest.mark.parametrize(
    "text",
    [
        "{}", '{"name": 3}', '{"name": ""}', '{"name": "f", "arguments": [1]}', '{"name": "f", "arguments": "no"}',
        "{'name': 'f'}", '{"name": "f",}', '{"name": "f" "arguments": {}}', '{"name"}', "{", "", "[]", '{1: 2}',
        '{"name": "f", "arguments": ' + "[" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_call(text):
    assert read_call(text) is None


@pytest.mark.parametrize(
    "text", ["[]", "[1]", '[{"name": "f"} {"name": "g"}]', '[{"name": "f"},]', '[{"x": 1}]', "[[]]"]
)
def test_what_is_no_array_of_calls(text):
    assert read_calls(text) is None


def test_ids_have_nine_letters_and_digits_and_differ():
    ids = {new_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(len(i) == 9 and i.isalnum() for i in ids)
