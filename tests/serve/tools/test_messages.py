"""Messages with calls and results, as clients send them, through the chat templates of each family."""

from pathlib import Path

import pytest

from vesalius.core.errors import UserError
from vesalius.serve.tools.messages import for_template
from vesalius.serve.tools.parsing import AnswerParser
from vesalius.serve.tools.style import Style
from vesalius.tokenizers.chat_template import render_chat

FAMILIES = Path(__file__).parents[2] / "tokenizers" / "templates"
TEMPLATES = {path.stem: path.read_text("utf-8") for path in FAMILIES.iterdir()}
NAMED = {"bos_token": "<s>", "eos_token": "</s>"}
ARGUMENTS = '{"a": 1, "b": "é \\"x\\""}'
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "add", "arguments": ARGUMENTS}}
ASKED = [
    {"role": "user", "content": "Add.", "tool_calls": None, "name": None},
    {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None},
]
RESULT = {"role": "tool", "tool_call_id": "abcdefghi", "content": "3"}
ANSWER = {"role": "assistant", "content": "It is 3.", "tool_calls": None}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize("family", ["qwen", "llama3", "mistral", "deepseek"])
def test_calls_and_results_are_written_by_each_family(family):
    tools = None if family == "deepseek" else [TOOL]
    text = render_chat(for_template([*ASKED, RESULT, ANSWER]), TEMPLATES[family], tools=tools, named_tokens=NAMED)
    assert '{"a": 1, "b": "é \\"x\\""}' in text  # an object and not a text in quotes
    assert text.index("add") < text.index('"é') < text.rindex("It is 3.")
    assert "None" not in text


@pytest.mark.parametrize(
    ("family", "style", "begin", "end"),
    [
        ("qwen", "hermes", "<|im_start|>assistant\n", "<|im_end|>"),
        ("llama3", "llama3", "<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
        ("mistral", "mistral", "[/INST]", "</s>"),
    ],
)
def test_what_a_template_writes_as_a_call_is_read_as_that_call(family, style, begin, end):
    text = render_chat(for_template(ASKED), TEMPLATES[family], tools=[TOOL], named_tokens=NAMED)
    said = text.rsplit(begin, 1)[1].split(end)[0]
    parser = AnswerParser(Style(style, ("<think>", "</think>")), ["add"])
    deltas = parser.push(said) + parser.close()
    assert [delta.content for delta in deltas if delta.content] == []
    start, arguments = (delta.tool_call for delta in deltas if delta.tool_call)
    assert (start.name, arguments.arguments) == ("add", ARGUMENTS)


def test_what_is_null_is_left_out_and_a_result_gets_the_name_of_its_function():
    assert for_template([*ASKED, RESULT, ANSWER]) == [
        {"role": "user", "content": "Add."},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{**CALL, "function": {"name": "add", "arguments": {"a": 1, "b": 'é "x"'}}}],
        },
        {**RESULT, "name": "add"},
        {"role": "assistant", "content": "It is 3."},
    ]


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"role": "assistant", "tool_calls": "add"}, "message 0 has tool_calls 'add', expected a list"),
        ({"role": "assistant", "tool_calls": [{"id": "x"}]}, r"message 0, tool_calls\[0\] is no call"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}, "are no JSON"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]},
            r"has arguments \[1\]",
        ),
        (RESULT, "tool_call_id 'abcdefghi', expected"),
    ],
)
def test_malformed_calls_and_results_without_a_call_are_refused(message, error):
    with pytest.raises(UserError, match=error):
        for_template([message])
