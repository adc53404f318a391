import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, normalizers, pre_tokenizers
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX as QWEN2
from transformers.models.qwen3_5.tokenization_qwen3_5 import PRETOKENIZE_REGEX as QWEN35

from vesalius.core.errors import UserError
from vesalius.tokenizers.backends import byte_level_backend
from vesalius.tokenizers.gguf.pretokenizers import PRETOKENIZERS, name_of_rule, pretokenizer_named
from vesalius.tokenizers.pretokenize import PATTERN, to_printable

CHARACTERS = st.sampled_from("abcXYZ'sdtl  \n\n\r\t0123٣½.,!?<|>#/é世ひカ한🤖\u00a0\u3000ЖΩ()$~`")
WORDS = st.sampled_from(["'ll", "'RE", "HTTPServer", "12345", "   ", "\n\n", "don't"])
TEXTS = st.lists(CHARACTERS | WORDS, max_size=25).map("".join)


def pieces(pre_tokenizer, text):
    return [piece for piece, _ in pre_tokenizer.pre_tokenize_str(text)]


def ours(name):
    rule = pretokenizer_named(name)
    return byte_level_backend({"a": 0}, [], rule.patterns).pre_tokenizer


def cut(text, patterns):
    """Both the matches of a pattern and what stands between them are pieces, for the next pattern to cut."""
    for pattern in patterns:
        parts = (regex.split(f"({pattern})", piece) for piece in ([text] if isinstance(text, str) else text))
        text = [part for split in parts for part in split if part]
    return text


@pytest.mark.parametrize("name", PRETOKENIZERS)
@given(text=TEXTS)
@settings(max_examples=20)
def test_each_pattern_cuts_what_the_one_before_left(name, text):
    assert pieces(ours(name), text) == [
        to_printable(piece.encode()) for piece in cut(text, PRETOKENIZERS[name].patterns)
    ]


@given(text=TEXTS)
@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("gpt-2", pre_tokenizers.ByteLevel(add_prefix_space=False)),
        ("smollm", pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False)])),
        ("starcoder", pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False)])),
        ("command-r", pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False)])),
        (
            "falcon",
            pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Punctuation("contiguous"),
                    pre_tokenizers.ByteLevel(False),
                    pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated"),
                ]
            ),
        ),
    ],
)
def test_names_that_published_tokenizers_say_otherwise(name, theirs, text):
    assert pieces(ours(name), text) == pieces(theirs, text)


def test_patterns_that_transformers_publishes():
    assert PRETOKENIZERS["qwen2"].patterns == (QWEN2,)
    assert PRETOKENIZERS["qwen35"].patterns == (QWEN35,)
    assert PRETOKENIZERS["llama-bpe"].patterns == (PATTERN,)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt-2", ["It", "'s", " 12345", "\n\n", " HTTPServer", "!!", "\n"]),
        ("smollm", ["It", "'s", " ", "1", "2", "3", "4", "5", "\n\n", " HTTPServer", "!!", "\n"]),
        ("llama-bpe", ["It", "'s", " ", "123", "45", "\n\n", " HTTPServer", "!!\n"]),
        ("qwen2", ["It", "'s", " ", "1", "2", "3", "4", "5", "\n\n", " HTTPServer", "!!\n"]),
        ("gpt-4o", ["It's", " ", "123", "45", "\n\n", " HTTPServer", "!!\n"]),
        ("tekken", ["It", "'s", " ", "1", "2", "3", "4", "5", "\n\n", " HTTPServer", "!!\n"]),
        ("deepseek-v3", ["It", "'s", " ", "123", "45", "\n\n", " HTTPServer", "!!\n"]),
        ("falcon", ["It", "'", "s", " ", "123", "45", "\n\n", " HTTPServer", "!!", "\n"]),
        ("default", ["It", "'", "s", " ", "123", "45", "\n\n", " HTTPServer", "!!", "\n"]),
        ("bloom", ["It's", " 12345", "\n\n", " HTTPServer", "!!\n"]),
    ],
)
def test_how_families_differ(name, expected):
    assert pieces(ours(name), "It's 12345\n\n HTTPServer!!\n") == [to_printable(piece.encode()) for piece in expected]


def test_words_are_cut_at_the_hump_where_a_small_letter_comes_before_a_capital():
    assert pieces(ours("gpt-4o"), "camelCase") == ["camel", "Case"]
    assert pieces(ours("llama4"), "HTTPServer") == ["HTTPServer"]


@pytest.mark.parametrize(("name", "nfc"), [("qwen2", True), ("command-r", True), ("olmo", True), ("smollm", False)])
def test_which_models_compose_characters_first(name, nfc):
    backend = byte_level_backend({"a": 0}, [], PRETOKENIZERS[name].patterns, nfc=PRETOKENIZERS[name].nfc)
    assert isinstance(backend.normalizer, normalizers.NFC) == nfc


def test_a_rule_finds_a_name_that_means_it():
    for known in PRETOKENIZERS.values():
        assert PRETOKENIZERS[name_of_rule(known.rule)].rule == known.rule
    assert name_of_rule((("a",), False, False)) is None


def test_an_unknown_name():
    with pytest.raises(UserError, match=r"unknown pre-tokenizer 'qwen-2'.*did you mean 'qwen2'\?"):
        pretokenizer_named("qwen-2")
