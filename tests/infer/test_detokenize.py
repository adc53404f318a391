"""Streaming text: joined pieces are the decoded text, no piece ends in half a character, and stop texts are cut over
token borders."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vesalius.infer.detokenize import Detokenizer
from vesalius.tokenizers.bpe import BPE, SPECIAL_TOKENS
from vesalius.tokenizers.tokenizer import Tokenizer

SPECIAL = {text: i for i, text in enumerate(SPECIAL_TOKENS)}
BYTES = Tokenizer.from_bpe(BPE({bytes([b]): b + len(SPECIAL) for b in range(256)}, [], SPECIAL))
"""Every token is one byte, so every border between bytes is one between tokens."""


def byte_ids(data: bytes) -> list[int]:
    return [b + len(SPECIAL) for b in data]


def pieces(ids: list[int], stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    """The non-empty pieces, and whether a stop text ended them."""
    detokenizer, found = Detokenizer(BYTES, stop), []
    for token in ids:
        found.append(detokenizer.push(token))
        if detokenizer.stopped:
            break
    found.append(detokenizer.close())
    return [piece for piece in found if piece], detokenizer.stopped


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text().map(str.encode), st.binary()))
def test_joined_pieces_are_the_decoded_bytes(data):
    assert "".join(pieces(byte_ids(data))[0]) == data.decode("utf-8", "replace")


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_every_piece_is_whole_characters_of_the_text(text):
    assert pieces(byte_ids(text.encode()))[0] == list(text)


@settings(max_examples=300, deadline=None)
@given(
    text=st.text("abc", max_size=30),
    stop=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3).map(tuple),
    whole=st.booleans(),
)
def test_text_ends_before_the_stop_that_ends_first(text, stop, whole):
    ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(s) for s in stop)]
    before = text[: ends[0] - max(len(s) for s in stop if text[: ends[0]].endswith(s))] if ends else text
    found, stopped = pieces(byte_ids(text.encode()), stop)
    assert ("".join(found), stopped) == (before, bool(ends))


def test_nothing_that_could_begin_a_stop_text_is_given_out():
    detokenizer = Detokenizer(BYTES, ("<end>",))
    given_out = [detokenizer.push(token) for token in byte_ids(b"a<en<end")]
    assert given_out == ["a", "", "", "", "<en", "", "", ""]
    assert detokenizer.close() == "<end"


def test_a_stop_text_may_hold_a_character_of_several_bytes():
    assert pieces(byte_ids("né à la".encode()), ("é à",)) == (["n"], True)


def test_an_emoji_of_many_tokens_comes_only_whole():
    """Four bytes a code point; the family is four of them with joiners between, each given out as soon as it is
    certain."""
    detokenizer = Detokenizer(BYTES)
    assert [detokenizer.push(token) for token in byte_ids("😀".encode())] == ["", "", "", "😀"]
    family = "👩‍👩‍👧‍👦"
    found, _ = pieces(byte_ids(family.encode()))
    assert found == list(family)


def test_bytes_that_are_no_text_become_replacement_characters_and_text_goes_on():
    assert pieces(byte_ids(b"a\xff\xf0\x9fb\xf0\x9f\x98"))[0] == ["a", "\ufffd", "\ufffdb", "\ufffd"]


@pytest.mark.parametrize("special", SPECIAL.values())
def test_special_tokens_have_no_text(special):
    assert pieces([*byte_ids(b"a"), special, *byte_ids(b"b")])[0] == ["a", "b"]
