"""Templates in the manner of each family, with the constructs that theirs use; ours and transformers must agree."""

from pathlib import Path

import jinja2
import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from vesalius.core.errors import UserError
from vesalius.tokenizers.chat_template import render_chat, words_sought

TEMPLATES = {path.stem: path.read_text("utf-8") for path in (Path(__file__).parent / "templates").iterdir()}
NAMED = {"bos_token": "<s>", "eos_token": "</s>"}

SYSTEM = {"role": "system", "content": " Be brief. "}
QUESTION = {"role": "user", "content": "What is 2 < 3?\n"}
ANSWER = {"role": "assistant", "content": "True & <b>é</b> 'quoted' \"twice\""}
THOUGHT = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nTrue"}
REASONED = {"role": "assistant", "content": "True", "reasoning": "hm\n"}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "abcdefghi", "type": "function", "function": {"name": "add", "arguments": {"b": "é", "a": 1}}}
    ],
}
RESULT = {"role": "tool", "content": "3", "tool_call_id": "abcdefghi", "name": "add"}
MORE = {"role": "user", "content": "Thanks. 世界 🤖"}
CONVERSATIONS = {
    "question": [QUESTION],
    "system": [SYSTEM, QUESTION],
    "turns": [SYSTEM, QUESTION, ANSWER, MORE],
    "ended": [QUESTION, ANSWER],
    "thought": [QUESTION, THOUGHT, MORE, THOUGHT],
    "reasoned": [QUESTION, REASONED, MORE, REASONED],
    "called": [QUESTION, CALL, RESULT],
    "answered": [SYSTEM, QUESTION, CALL, RESULT, ANSWER, MORE],
    "results": [QUESTION, CALL, RESULT, RESULT, ANSWER],
    "two users": [QUESTION, MORE],
    "two calls": [QUESTION, CALL | {"tool_calls": CALL["tool_calls"] * 2}, RESULT],
    "parts": [{"role": "user", "content": [{"type": "text", "text": " Hi "}]}],
}
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds 'two' <numbers>",
        "parameters": {"type": "object", "properties": {"b": {"type": "number"}, "a": {"type": "string"}}},
    },
}
WITH_TOOLS = ("llama3", "mistral", "qwen")


def outcome(render):
    """The text, or that the template refuses."""
    try:
        return render()
    except (UserError, jinja2.TemplateError, TypeError):
        return "refused"


def compare(name, conversation, tools=None, prompt=True, **options):
    template, messages = TEMPLATES[name], CONVERSATIONS[conversation]

    def theirs():
        texts, _ = render_jinja_template(
            [messages], tools, None, template, add_generation_prompt=prompt, **NAMED, **options
        )
        return texts[0]

    def ours():
        return render_chat(
            messages, template, tools=tools, add_generation_prompt=prompt, named_tokens=NAMED, options=options
        )

    assert outcome(ours) == outcome(theirs)
    return outcome(ours)


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_text_is_that_of_transformers(name, conversation, prompt):
    compare(name, conversation, prompt=prompt)


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", WITH_TOOLS)
def test_with_tools(name, conversation):
    compare(name, conversation, tools=[TOOL, TOOL])


@pytest.mark.parametrize("enable_thinking", [True, False])
@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_thinking_is_a_template_option(conversation, enable_thinking):
    text = compare("qwen", conversation, enable_thinking=enable_thinking)
    assert text.endswith("<think>\n\n</think>\n\n") == (not enable_thinking)


def test_options_of_other_kinds():
    assert "Today: 5 May\n" in compare("llama3", "turns", date_string="5 May")
    assert "Call one of these" not in compare("llama3", "turns", tools=[TOOL], tools_first=False)


@pytest.mark.parametrize(
    ("name", "conversation", "refuses"),
    [
        ("mistral", "two users", True),
        ("gemma", "two users", True),
        ("gemma", "called", True),
        ("llama3", "two calls", True),
        ("mistral", "answered", False),
        ("qwen", "two users", False),
        ("deepseek", "results", False),
    ],
)
def test_which_conversations_a_family_refuses(name, conversation, refuses):
    assert (compare(name, conversation) == "refused") == refuses


def test_why_it_refuses_is_told():
    with pytest.raises(UserError, match="cannot write this conversation: Roles must take turns"):
        render_chat([QUESTION, MORE], TEMPLATES["gemma"])


def test_old_thoughts_are_left_out():
    text = compare("deepseek", "thought")
    assert "hm" not in text
    assert compare("qwen", "thought").count("hm") == 1


def test_reasoning_is_found_under_every_name():
    for name in ("reasoning", "thinking", "reasoning_content"):
        message = {"role": "assistant", "content": "True", name: "because"}
        assert "<think>\nbecause\n</think>\n\nTrue" in render_chat([QUESTION, message], TEMPLATES["qwen"])


def test_an_option_that_the_template_does_not_know():
    with pytest.raises(UserError, match=r"no option 'enable_thinkin': did you mean 'enable_thinking'\?"):
        render_chat([QUESTION], TEMPLATES["qwen"], options={"enable_thinkin": False})
    for taken in ("messages", "raise_exception", "bos_token"):
        with pytest.raises(UserError, match=f"no option '{taken}'"):
            render_chat([QUESTION], TEMPLATES["llama3"], named_tokens=NAMED, options={taken: "x"})


def test_words_that_a_template_takes_messages_apart_at():
    assert words_sought(TEMPLATES["qwen"]) == {"<think>", "</think>"}
    assert words_sought(TEMPLATES["gemma"]) == frozenset()
