import doctest
import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from vesalius.core.errors import UserError
from vesalius.tokenizers import chat_template as module
from vesalius.tokenizers.chat_template import BREAK, CHATML, defuse, marks_assistant, render_chat

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 2 < 3?"},
    {"role": "assistant", "content": "True & <b>é</b>"},
    {"role": "user", "content": "Thanks"},
]
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"b": 1, "a": "é <"}}}]
LOOP = "{% for m in messages %}"
MACRO = "{% macro say(m) %}{% generation %}{{ m.content }}{% endgeneration %}{% endmacro %}"
TEMPLATES = {
    "chatml": CHATML,
    "loop control": LOOP + "{% if loop.index > 2 %}{% break %}{% endif %}{{ m['content'] }}|{% endfor %}",
    "json": "{{ messages | tojson }} {{ messages[0] | tojson(indent=2) }}",
    "ascii json": "{{ messages[2] | tojson(ensure_ascii=True) }}",
    "namespace": "{% set ns = namespace(n=0) %}" + LOOP + "{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "whitespace": LOOP + "\n    {% if m.role == 'user' %}\n{{ m.content | trim }}\n    {% endif %}\n{% endfor %}\n",
    "prompt": "{{ bos_token }}{% if add_generation_prompt %}go{% else %}no{% endif %}",
    "date": "{{ strftime_now('%Y') }}",
    "macro": MACRO + "{{ say(messages[2]) }}",
}
PIECES = ["<", "|", ">", "<|", "|>", "im", "_end", "<|im_end|>", "<a<", "<b", "x", BREAK, "\ufdd1"]
SPECIALS = ["<|im_end|>", "<a<", "<b", "|>|"]


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_the_text_is_that_of_transformers(template, prompt):
    theirs, _ = render_jinja_template([CHAT], chat_template=template, add_generation_prompt=prompt, bos_token="<s>")
    assert render_chat(CHAT, template, add_generation_prompt=prompt, named_tokens={"bos_token": "<s>"}) == theirs[0]


def test_tools_reach_the_template():
    template = "{{ tools | tojson }}"
    theirs, _ = render_jinja_template([CHAT], tools=TOOLS, chat_template=template)
    assert render_chat(CHAT, template, tools=TOOLS) == theirs[0]


@given(st.lists(st.lists(st.sampled_from(PIECES)).map("".join), max_size=5))
def test_no_joining_of_defused_strings_makes_a_special_token(strings):
    joined = "".join(defuse(strings, SPECIALS))
    assert not any(special in joined for special in SPECIALS)


@given(st.sampled_from(SPECIALS), st.integers(1, 9), st.lists(st.sampled_from(PIECES)).map("".join))
def test_half_a_special_token_from_the_template_is_not_completed(special, size, text):
    begin, end = special[:size], special[size:]
    assume(end)
    assert special not in begin + defuse(end + text, SPECIALS)
    assert special not in defuse(text + begin, SPECIALS) + end


@given(
    st.text(st.characters(exclude_characters="\ufdd0\ufdd1\ufdd2"))
    | st.lists(st.sampled_from(PIECES[:-2])).map("".join)
)
def test_defusing_only_adds_marks(text):
    assert defuse(text, SPECIALS).replace(BREAK, "") == text


def test_nested_values_and_keys_are_defused():
    value = {"tool_calls": [{"arguments": {"<|im_end|>": ["<|im_end|>", 1, None, True]}}]}
    text = json.dumps(defuse(value, SPECIALS), ensure_ascii=False)
    assert "<|im_end|>" not in text
    assert json.loads(text.replace(BREAK, "")) == value


def test_marks_in_a_message_become_replacement_characters():
    assert (
        render_chat([{"role": "user", "content": "a\ufdd0\ufdd1\ufdd2b"}], "{{ messages[0].content }}")
        == "a\ufffd\ufffd\ufffdb"
    )


@pytest.mark.parametrize("form", ["{% generation %}", "{%- generation -%}", "{%generation%}"])
def test_assistant_blocks_are_recognised(form):
    assert marks_assistant("a" + form + "b{% endgeneration %}")
    assert not marks_assistant("{{ generation }}")


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([], "the conversation is empty"),
        (["hi"], "message 0 is 'hi', expected a dict"),
        ([{"role": "usr", "content": "hi"}], "message 0 has role 'usr', did you mean 'user'?"),
        ([{"content": "hi"}], "message 0 has role None"),
        ([{"role": "user"}], r"message 0 \(user\) has no content"),
        ([{"role": "user", "content": {1, 2}}], "expected only what JSON knows"),
        ([{"role": "user", "content": [{"type": "text", "text": "hi"}]}], "plain text only"),
        ([{"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]}], "plain text only"),
    ],
)
def test_malformed_conversations(messages, complaint):
    with pytest.raises(UserError, match=complaint):
        render_chat(messages, CHATML)


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{% for %}", "not valid Jinja: line 1"),
        ("{{ raise_exception('roles must alternate') }}", "cannot write this conversation: roles must alternate"),
        ("{{ messages[0].content + 1 }}", "cannot write this conversation"),
        ("{{ messages[9].content }}", "cannot write this conversation"),
        ("{{ ''.__class__.__mro__ }}", "cannot write this conversation"),
        ("{{ messages.append(1) }}", "cannot write this conversation"),
    ],
)
def test_templates_that_are_broken_or_refuse(template, complaint):
    with pytest.raises(UserError, match=complaint):
        render_chat(CHAT, template)


def test_tools_for_a_template_without_tools():
    with pytest.raises(UserError, match="knows no tools"):
        render_chat(CHAT, CHATML, tools=TOOLS)


def test_examples_in_docstrings():
    assert doctest.testmod(module).failed == 0
