"""Chats in vocabularies that put a blank before a text: the ids are those of the whole text at once."""

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers, pre_tokenizers
from transformers import AutoTokenizer

from vesalius.tokenizers.chat import encode_chat
from vesalius.tokenizers.gguf.reading import tokenizer_from_gguf
from vesalius.tokenizers.tokenizer import Tokenizer

LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<turn>' + m.role + '\n' + m.content | trim + '<end>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<turn>assistant\n' }}{% endif %}"
)
MARKED = (
    "{% for m in messages %}{{ '<turn>' + m.role }}{% generation %}{{ m.content + '<end>' }}{% endgeneration %}"
    "{{ '\n' }}{% endfor %}"
)
TEMPLATES = {"llama2": LLAMA2, "gemma": GEMMA, "marked": MARKED}
BLANKS = {
    "always": {},
    "first": {
        "normalizer": normalizers.Sequence([]),
        "pre_tokenizer": pre_tokenizers.Metaspace(prepend_scheme="first", split=False),
    },
    "metaspace": {
        "normalizer": normalizers.Sequence([]),
        "pre_tokenizer": pre_tokenizers.Metaspace(prepend_scheme="always", split=False),
    },
    "never": {"normalizer": normalizers.Replace(" ", "▁")},
}
CONTENT = st.lists(st.sampled_from(["def ", "self", " x", "  ", "\n", "é", "世", "return", "."]), min_size=1).map(
    "".join
)
TEXT = CONTENT.filter(str.strip)
EVIL = st.lists(st.sampled_from(["<end>", "</s>", "<turn>", "self ", " x", "<", "end>"]), min_size=1).map("".join)


@pytest.fixture(scope="module")
def peer(train_sentencepiece):
    return train_sentencepiece("bpe", control_symbols=["<turn>", "<end>"], user_defined_symbols=["<tool>"])


@pytest.fixture(scope="module", params=[f"{blank} {template}" for blank in BLANKS for template in TEMPLATES])
def chatting(request, peer, gguf_of, tmp_path_factory):
    """Ours and transformers', of one vocabulary with one way to put blanks and one template."""
    blank, template = request.param.split()
    usual = tokenizer_from_gguf(gguf_of(peer, "llama", user_defined=["<tool>"]))
    backend = tokenizers.Tokenizer.from_str(usual.backend.to_str())
    for name, part in BLANKS[blank].items():
        setattr(backend, name, part)
    directory = tmp_path_factory.mktemp("saved")
    ours = Tokenizer(backend, {**usual.config, "chat_template": TEMPLATES[template]})
    ours.save(directory)
    return ours, AutoTokenizer.from_pretrained(directory)


def turns(*texts):
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


@settings(max_examples=25)
@given(first=TEXT, answer=TEXT, last=TEXT)
def test_a_prompt_has_the_ids_that_transformers_gives(chatting, first, answer, last):
    ours, theirs = chatting
    for messages in (turns(first), turns(first, answer.strip(), last)):
        expected = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        got = encode_chat(ours, messages, add_generation_prompt=True).ids
        assert got == expected


@settings(max_examples=25)
@given(question=EVIL, answer=EVIL)
def test_messages_cannot_write_special_tokens_and_lose_no_character(chatting, question, answer):
    ours, theirs = chatting
    honest = encode_chat(ours, turns("self", "self")).ids
    chat = encode_chat(ours, turns(question, answer))
    specials = set(ours.special_tokens.values())
    assert [i for i in chat.ids if i in specials] == [i for i in honest if i in specials]
    text = theirs.apply_chat_template(turns(question, answer), tokenize=False)
    assert "".join(ours.decode(chat.ids).split()) == "".join(text.split())


@settings(max_examples=25)
@given(question=TEXT, answer=TEXT)
def test_training_ids_are_the_prompts_ids_and_then_the_answers(chatting, question, answer):
    ours, _ = chatting
    if "generation" in ours.chat_template:
        return  # a template for training only
    chat = encode_chat(ours, turns(question, answer))
    prompt = encode_chat(ours, turns(question), add_generation_prompt=True)
    assert chat.ids[: len(prompt.ids)] == prompt.ids
    assert chat.assistant_mask[: len(prompt.ids)] == prompt.assistant_mask


def test_an_answer_behind_a_word_gets_no_blank_that_the_text_does_not_have(chatting):
    ours, _ = chatting
    bare = ours.encode("self", after="text")
    assert ours.decode(ours.encode("x") + bare).endswith("xself")
    assert ours.encode("x self") == ours.encode("x") + ours.encode(" self", after="text")
