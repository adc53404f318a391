import json
import re

import numpy as np
import pytest
import scipy.special
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, models, pre_tokenizers, trainers

from vesalius.core.errors import UserError
from vesalius.tokenizers.backends import BLANK
from vesalius.tokenizers.unigram.model import ALWAYS_PIECES, BYTE_PIECES
from vesalius.tokenizers.unigram.training import digamma, learn_pieces, train_unigram
from vesalius.tokenizers.unigram.word_lattices import WordLattices
from vesalius.tokenizers.word_counts import count_words

SIZE = 900


@pytest.fixture(scope="module")
def words(documents):
    """Words with their counts, as training writes them."""
    return {word.replace(" ", BLANK): count for word, count in count_words(documents).items()}


def learned_by_hugging_face(words, size):
    peer = tokenizers.Tokenizer(models.Unigram())
    peer.pre_tokenizer = pre_tokenizers.Split(Regex("\0"), "removed")
    trainer = trainers.UnigramTrainer(
        vocab_size=size + 1, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )
    peer.train_from_iterator(["\0".join([word] * count) for word, count in words.items()], trainer)
    pieces = json.loads(peer.to_str())["model"]["vocab"]
    return [(piece, score) for piece, score in pieces if piece != "<unk>"]


def nats(words, pieces):
    """What all words cost under these pieces, whose probabilities are made to sum to one."""
    scores = np.array([score for _, score in pieces])
    scores -= scipy.special.logsumexp(scores)
    lattices = WordLattices.of(list(words), [piece for piece, _ in pieces])
    return -lattices.expected(scores, np.array(list(words.values())))[1]


@pytest.mark.parametrize("size", [300, SIZE])
def test_the_text_is_no_less_likely_than_with_hugging_faces_pieces(words, size):
    ours, theirs = learn_pieces(words, size), learned_by_hugging_face(words, size)
    assert len(ours) == len(theirs) == size
    assert nats(words, ours) < 1.01 * nats(words, theirs)


def test_probabilities_sum_to_one_and_fall(words):
    pieces = learn_pieces(words, SIZE)
    scores = [score for _, score in pieces]
    assert np.exp(scores).sum() == pytest.approx(1, abs=1e-12)
    assert scores == sorted(scores, reverse=True)
    assert len({piece for piece, _ in pieces}) == SIZE


def test_all_characters_stay_pieces(words):
    pieces = {piece for piece, _ in learn_pieces(words, 300, ["ß", "Ω"])}
    assert pieces >= {character for word in words for character in word} | {"ß", "Ω"}


def test_the_order_of_words_does_not_matter(words):
    ours, others = (dict(learn_pieces(given, SIZE)) for given in (words, dict(reversed(list(words.items())))))
    assert ours == others


def test_a_word_that_is_frequent_is_a_piece_however_few_different_words_there_are():
    pieces = dict(learn_pieces({"vesalius": 1000, "fabrica": 3}, 20))
    assert pieces["vesalius"] == max(pieces.values())


@given(st.floats(1e-3, 1e6))
def test_digamma_is_scipys(x):
    assert digamma(np.array([x]))[0] == pytest.approx(scipy.special.digamma(x), rel=1e-11, abs=1e-11)


def test_ids_are_special_tokens_the_unknown_piece_bytes_and_what_was_learned(documents):
    unigram = train_unigram(documents, SIZE)
    texts = [piece for piece, _ in unigram.pieces]
    assert texts[:4] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>"]
    assert tuple(texts[4:260]) == BYTE_PIECES
    assert len(texts) == SIZE
    assert set(texts[260:]) >= ALWAYS_PIECES


def test_rare_characters_are_bytes(documents):
    unigram = train_unigram(documents, SIZE)
    assert unigram.encode("🤖") == [4 + byte for byte in "🤖".encode()]
    assert not any("🤖" in piece for piece, _ in unigram.pieces)


def test_progress_rises_to_one(documents):
    told = []
    train_unigram(documents, SIZE, on_progress=told.append)
    assert told == sorted(told)
    assert 0 <= told[0] < 1 == told[-1]


def test_the_error_names_how_many_tokens_a_text_supports(documents):
    with pytest.raises(UserError, match="but this text supports at most") as error:
        train_unigram(documents[-2:], 2000)
    most = int(re.search(r"at most (\d+) tokens", str(error.value))[1])
    assert len(train_unigram(documents[-2:], most).pieces) == most


def test_no_room_for_the_characters():
    with pytest.raises(UserError, match=r"vocab_size is 300, expected at least 356"):
        train_unigram(["text\n"], 300)


@pytest.mark.parametrize("special_tokens", [["x"], ["<s>", "<s>"], ["<unk>"], [""]])
def test_special_tokens_that_are_none(documents, special_tokens):
    with pytest.raises(UserError, match=rf"special token '{special_tokens[0]}' is empty or also another piece"):
        train_unigram(documents, SIZE, special_tokens)
