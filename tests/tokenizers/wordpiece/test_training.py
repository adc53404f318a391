import re
from collections import Counter

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers

from vesalius.core.errors import UserError
from vesalius.tokenizers.wordpiece import training
from vesalius.tokenizers.wordpiece.model import PREFIX, UNKNOWN, words_of
from vesalius.tokenizers.wordpiece.training import learn_wordpieces, train_wordpiece

WORDS = st.dictionaries(st.text("abcé", min_size=1, max_size=8), st.integers(1, 4), min_size=1, max_size=8)


def learned_by_hugging_face(counts, size, first):
    """Its vocabulary by id, where it is told the numbers of our first tokens: else a hash table gives them."""
    peer = tokenizers.Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    peer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=first, show_progress=False)
    peer.train_from_iterator([" ".join([word] * count) for word, count in counts.items()], trainer)
    vocab = peer.get_vocab()
    return sorted(vocab, key=vocab.__getitem__)


def first_tokens(counts):
    letters = {character for word in counts for character in word}
    inner = {PREFIX + character for word in counts for character in word[1:]}
    return [UNKNOWN, *sorted(letters), *sorted(inner)]


@settings(deadline=None)
@given(WORDS, st.integers(0, 30))
def test_tokens_are_those_of_hugging_face(counts, more):
    first = first_tokens(counts)
    size = len(first) + more
    assert learn_wordpieces(counts, size, [UNKNOWN]) == learned_by_hugging_face(counts, size, first)


def test_real_text_gives_the_tokens_of_hugging_face(documents):
    counts = Counter(word for text in documents for word in words_of(text, "bert"))
    assert learn_wordpieces(counts, 1200, [UNKNOWN]) == learned_by_hugging_face(counts, 1200, first_tokens(counts))


def test_ids_are_special_tokens_the_unknown_token_and_what_was_learned(documents):
    wordpiece = train_wordpiece(documents, 700)
    assert list(wordpiece.vocab)[:4] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>", UNKNOWN]
    assert list(wordpiece.vocab.values()) == list(range(700))
    assert wordpiece.special_tokens == {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}


def test_words_with_rare_characters_are_unknown(monkeypatch):
    monkeypatch.setattr(training, "MOST_CHARACTERS", 2)
    wordpiece = train_wordpiece(["ab ab abc"], 8)
    assert wordpiece.encode("ab abc") == [wordpiece.vocab["ab"], 3]


def test_the_error_names_how_many_tokens_a_text_supports():
    with pytest.raises(UserError, match="but this text supports at most") as error:
        train_wordpiece(["some text, some words"], 500)
    most = int(re.search(r"at most (\d+) tokens", str(error.value))[1])
    assert len(train_wordpiece(["some text, some words"], most).vocab) == most


def test_no_room_for_the_characters():
    with pytest.raises(UserError, match="vocab_size is 6, expected at least 7: 4 special tokens"):
        train_wordpiece(["ab"], 6)


@pytest.mark.parametrize("special_tokens", [["<s>", "<s>"], [""], ["ab"], [UNKNOWN]])
def test_special_tokens_that_are_none(special_tokens):
    with pytest.raises(UserError, match="expected different texts, none of them empty or a piece of the text"):
        train_wordpiece(["ab ab"], len(special_tokens) + 5, special_tokens)


def test_progress_is_told_after_every_piece():
    sizes = []
    train_wordpiece(["some text, some words"], 32, on_merge=sizes.append)
    assert sizes == list(range(sizes[0], 33))
