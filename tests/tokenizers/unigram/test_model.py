import random

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from vesalius.tokenizers.backends import BLANK
from vesalius.tokenizers.unigram.model import BYTE_PIECES, HIDDEN_SCORE, Unigram

VOCABULARIES = st.dictionaries(st.text(f"abc{BLANK}é", min_size=1, max_size=4), st.floats(-12, -0.5), min_size=1)
TEXTS = st.text("abc édx🤖", max_size=30)


def vocabulary(scores, with_bytes):
    hidden = ["<s>", "<unk>", *(BYTE_PIECES if with_bytes else ())]
    return Unigram([*((piece, HIDDEN_SCORE) for piece in hidden), *scores.items()], {"<s>": 0}, unknown_id=1)


def library(unigram, with_bytes):
    return tokenizers.models.Unigram(list(unigram.pieces), unigram.unknown_id, with_bytes)


@given(VOCABULARIES, TEXTS, st.booleans())
def test_ids_are_those_of_hugging_face(scores, text, with_bytes):
    unigram = vocabulary(scores, with_bytes)
    theirs = library(unigram, with_bytes).tokenize(text.replace(" ", BLANK))
    assert unigram.encode(text) == [token.id for token in theirs]


@given(VOCABULARIES, TEXTS)
def test_with_bytes_any_text_comes_back(scores, text):
    unigram = vocabulary({BLANK: -5.0} | scores, with_bytes=True)
    assert unigram.decode(unigram.encode(text)) == text.encode()
    assert unigram.decode(unigram.sample(text, random.Random(0), 0.1)) == text.encode()


def test_unknown_characters_next_to_each_other_are_one_token():
    assert vocabulary({"a": -1.0}, with_bytes=False).encode("xyazx") == [1, 2, 1]


@given(TEXTS)
def test_the_first_of_the_best_splits_is_the_encoding(text):
    unigram = vocabulary({"a": -1.0, "b": -2.1, "ab": -2.7, BLANK: -1.3, "aba": -4.0}, with_bytes=True)
    (best, ids), *others = unigram.n_best(text, 3)
    assert ids == unigram.encode(text)
    assert all(score <= best for score, _ in others)


def test_a_cold_sample_is_the_encoding():
    unigram = vocabulary({"a": -1.0, "b": -2.0, "ab": -2.5, "aba": -3.6}, with_bytes=False)
    assert unigram.sample("abab" * 5, random.Random(0), 1e4) == unigram.encode("abab" * 5)


@pytest.mark.parametrize("text", ["<s>", "<unk>", "<0x41>"])
def test_no_text_gives_a_hidden_piece(text):
    letters = dict.fromkeys("<>s/unk0x41", -9.0)
    unigram = vocabulary(letters, with_bytes=True)
    assert unigram.decode(unigram.encode(text)) == text.encode()
    assert min(unigram.encode(text)) > 257
    assert [token.id for token in library(unigram, with_bytes=True).tokenize(text)] == unigram.encode(text)


def test_bytes_of_each_token():
    unigram = vocabulary({f"{BLANK}é": -1.0}, with_bytes=True)
    assert [unigram.token_bytes(token) for token in (0, 2 + 10, 258)] == [b"<s>", b"\n", " é".encode()]
