"""Which style a model writes calls and thoughts in."""

from pathlib import Path

import pytest
from vocabularies import bytes_only

from vesalius.serve.tools.style import Style, style_of
from vesalius.tokenizers.tokenizer import Tokenizer

FAMILIES = Path(__file__).parents[2] / "tokenizers" / "templates"
TEMPLATES = {path.stem: path.read_text("utf-8") for path in FAMILIES.iterdir()}
THINK = ("<think>", "</think>")


def model(template: str, special: tuple[str, ...] = ()) -> Tokenizer:
    plain = bytes_only(("<|endoftext|>", "<|im_start|>", "<|im_end|>", *special))
    return Tokenizer(plain.backend, plain.config | {"chat_template": template})


@pytest.mark.parametrize(
    ("family", "calls", "thought"),
    [
        ("qwen", "hermes", THINK),
        ("llama3", "llama3", None),
        ("mistral", "mistral", None),
        ("chatml", None, None),
        ("gemma", None, None),
        ("deepseek", None, THINK),
    ],
)
def test_the_chat_template_shows_the_style(family, calls, thought):
    assert style_of(model(TEMPLATES[family])) == Style(calls, thought)


def test_special_tokens_show_it_too_and_are_to_be_shown():
    llama = style_of(model("{{ tools }}", ("<|python_tag|>",)))
    assert (llama.calls, llama.shown, llama.special) == ("llama3", ("<|python_tag|>",), (("<|python_tag|>", 3),))
    mistral = style_of(model("{{ tools }}[TOOL_CALLS]x[ARGS]", ("[ARGS]", "[TOOL_CALLS]", "[THINK]", "[/THINK]")))
    assert (mistral.calls, mistral.thought) == ("mistral_args", ("[THINK]", "[/THINK]"))
    assert set(mistral.shown) == {"[ARGS]", "[TOOL_CALLS]", "[THINK]", "[/THINK]"}


def test_the_template_for_tools_counts():
    tokenizer = model("{{ messages }}")
    named = [{"name": "default", "template": "{{ messages }}"}, {"name": "tool_use", "template": TEMPLATES["qwen"]}]
    assert style_of(Tokenizer(tokenizer.backend, tokenizer.config | {"chat_template": named})).calls == "hermes"


@pytest.mark.parametrize(("prompt", "opens"), [("…<think>\n", True), ("…<think>\n\n</think>\n\n", False), ("…", False)])
def test_a_prompt_may_open_the_thought(prompt, opens):
    assert Style("hermes", THINK).opens_thought(prompt) == opens
    assert not Style("hermes").opens_thought(prompt)
