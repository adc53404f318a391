import doctest
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from vesalius.tokenizers import pretokenize as module
from vesalius.tokenizers.pretokenize import (
    BYTE_TO_CHAR,
    PATTERN,
    cut,
    from_printable,
    pretokenize,
    replace_surrogates,
    to_printable,
)

HF_SPLIT = pre_tokenizers.Split(Regex(PATTERN), "isolated")
ASSIGNED = st.characters(exclude_categories=["Cn", "Cs"])
LAYOUT = st.text(alphabet=" \t\n\r.a1'é\u00a0\u2028\x0b\x1c", max_size=60)


def hf_pieces(text):
    return [piece for piece, _ in HF_SPLIT.pre_tokenize_str(text)]


@given(st.text())
def test_pieces_joined_are_the_text(text):
    assert "".join(pretokenize(text)) == text


@given(st.text(alphabet=ASSIGNED) | LAYOUT)
def test_pieces_are_those_of_hugging_face(text):
    assert pretokenize(text) == hf_pieces(text)


def test_every_kind_of_character_is_cut_as_hugging_face_cuts_it():
    """The first and the last character of every range of equal Unicode category that the interpreter knows."""
    categories = [unicodedata.category(chr(code)) for code in range(sys.maxunicode + 1)]
    edges = [
        chr(code)
        for code in range(1, sys.maxunicode)
        if categories[code] not in ("Cn", "Cs") and len(set(categories[code - 1 : code + 2])) > 1
    ]
    assert len(edges) > 3000
    probes = [f"a{char}{char}a!{char}1{char} {char}\n{char}" for char in edges]
    assert [probe for probe in probes if pretokenize(probe) != hf_pieces(probe)] == []


@pytest.mark.parametrize(
    "text", ["I'LL we've it'\u017f '\u212a", "1234567", "x   y\n\n   z  ", "a):\r\n\r\n\tb", "👩‍👩‍👧 e\u0301"]
)
def test_known_texts(text):
    assert pretokenize(text) == hf_pieces(text)


@given(LAYOUT, st.integers(1, 12))
def test_cutting_a_text_keeps_its_pieces(text, size):
    parts = cut(text, size)
    assert "".join(parts) == text
    assert [piece for part in parts for piece in pretokenize(part)] == pretokenize(text)


def test_cut_parts_are_about_as_long_as_asked():
    parts = cut("some line\n" * 100, 50)
    assert len(parts) == 20
    assert {len(part) for part in parts} == {50}


def test_the_printable_alphabet_is_hugging_faces():
    assert set(BYTE_TO_CHAR.values()) == set(pre_tokenizers.ByteLevel.alphabet())
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str("é \n\x00")
    assert pieces[0][0] == to_printable("é \n\x00".encode())


@given(st.binary())
def test_printable_characters_stand_for_all_bytes(data):
    assert from_printable(to_printable(data)) == data


@given(st.text(alphabet=st.characters()))
def test_text_without_surrogates_stays_as_it_is(text):
    clean = text.encode("utf-8", "ignore").decode()
    assert replace_surrogates(clean) == clean


def test_surrogates_become_what_a_browser_makes_of_them():
    assert replace_surrogates("\ud83d\ude00 \ud83d \ude00\udcff") == "😀 \ufffd \ufffd\ufffd"


def test_examples_in_docstrings():
    assert doctest.testmod(module).failed == 0
