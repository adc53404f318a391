import pytest
import tokenizers
from tokenizers import AddedToken, normalizers, pre_tokenizers

from vesalius.core.errors import UserError
from vesalius.tokenizers.backends import (
    add_tokens,
    blank_rule,
    byte_level_backend,
    parts,
    put_around,
    put_before,
    put_behind,
    state,
    token_reader,
    twin,
)


def small(**chain):
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "▁": 1, "<s>": 2}, []))
    for name, part in chain.items():
        setattr(backend, name, part)
    return backend


@pytest.mark.parametrize(
    ("chain", "rule"),
    [
        ({}, "never"),
        ({"normalizer": normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])}, "always"),
        ({"normalizer": normalizers.Prepend("▁")}, "always"),
        ({"pre_tokenizer": pre_tokenizers.Metaspace(prepend_scheme="first")}, "first"),
        ({"pre_tokenizer": pre_tokenizers.Metaspace(prepend_scheme="never")}, "never"),
        ({"pre_tokenizer": pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.ByteLevel()])}, "always"),
        ({"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=False)}, "never"),
    ],
)
def test_where_a_blank_is_put_and_that_a_twin_can_do_without(chain, rule):
    backend = small(**chain)
    assert blank_rule(backend) == rule
    assert blank_rule(twin(backend, encode_special_tokens=True, blank=False, added={})) == "never"
    assert blank_rule(twin(backend, encode_special_tokens=True, added={})) == rule


def test_a_twin_reads_special_tokens_and_the_first_one_does_not():
    backend = small()
    backend.encode_special_tokens = True
    added = {2: AddedToken("<s>", special=True)}
    add_tokens(backend, added)
    assert twin(backend, encode_special_tokens=False, added=added).encode("a<s>").ids == [0, 2]
    assert backend.encode("a<s>").ids == [0]


def test_a_twin_keeps_the_ids_of_added_tokens():
    backend = small()
    add_tokens(backend, {2: AddedToken("<s>", special=True), 3: AddedToken("x"), 4: AddedToken("y", special=True)})
    added = backend.get_added_tokens_decoder()
    assert twin(backend, encode_special_tokens=False, added=added).encode("ayx<s>").ids == [0, 4, 3, 2]


def test_what_is_put_around_a_text():
    backend = small()
    assert (put_before(backend), put_behind(backend)) == ([], [])
    add_tokens(backend, {2: AddedToken("<s>", special=True)})
    put_around(backend, {"<s>": 2}, {"<s>": 2})
    assert backend.encode("a").ids == [2, 0, 2]
    assert (put_before(backend), put_behind(backend)) == ([2], [2])
    assert backend.encode("a", add_special_tokens=False).ids == [0]


def test_steps_of_nested_sequences():
    chain = normalizers.Sequence([normalizers.Sequence([normalizers.NFC()]), normalizers.Lowercase()])
    assert [part["type"] for part in parts(state(chain))] == ["NFC", "Lowercase"]
    assert list(parts(state(None))) == []


def test_characters_that_stand_for_no_byte_are_themselves():
    read = token_reader(byte_level_backend({"a": 0}, [], []))
    assert read("Ġé") == b" \xe9"
    assert read("世Ġ") == "世Ġ".encode()


def test_patterns_cut_one_after_the_other():
    backend = byte_level_backend({}, [], [r"\d", "[ab]+"])
    assert [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str("ab12bac")] == ["ab", "1", "2", "ba", "c"]


def test_merges_of_no_tokens():
    with pytest.raises(UserError, match="the merges do not fit the vocabulary"):
        byte_level_backend({"a": 0}, [("a", "b")], [])
