import pytest
from hypothesis import given
from hypothesis import strategies as st

from vesalius.core.errors import UserError
from vesalius.tokenizers.bpe_training import train_bpe
from vesalius.tokenizers.unigram.model import ALWAYS_PIECES
from vesalius.tokenizers.untrained import byte_vocabulary, learn_characters

FIRST = 3 + 1 + 256


@given(st.binary())
def test_one_token_a_byte(data):
    assert len(byte_vocabulary().encode(data)) == len(data)
    assert byte_vocabulary().decode(byte_vocabulary().encode(data)) == data


def test_bytes_have_the_ids_that_they_have_in_every_byte_level_vocabulary():
    assert byte_vocabulary() == train_bpe([], 259)


@given(st.text("abÄ世 "))
def test_one_token_a_character(text):
    unigram = learn_characters(["ab", "Ä世", " "], 400)
    assert len(unigram.encode(text)) == len(text)
    assert min(unigram.encode(text), default=FIRST) >= FIRST


def test_the_most_frequent_characters_stay():
    unigram = learn_characters(["ÄÄÄ世世ß"], FIRST + len(ALWAYS_PIECES) + 2)
    assert [len(unigram.encode(character)) for character in "Ä世ßx"] == [1, 1, 2, 1]
    assert unigram.pieces[FIRST][0] == "Ä"


def test_no_room_for_ascii():
    with pytest.raises(UserError, match="vocab_size is 300, expected at least 355"):
        learn_characters([], 300)


def test_lone_surrogates_are_replacement_characters():
    assert "\ufffd" in {piece for piece, _ in learn_characters(["\udcff"], 400).pieces}
