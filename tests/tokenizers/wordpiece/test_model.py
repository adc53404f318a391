import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers
from transformers import BertTokenizer

from vesalius.tokenizers.wordpiece.model import LONGEST_WORD, UNKNOWN, WordPiece

PIECES = st.lists(st.from_regex(r"(##)?[abÉé世!]{1,4}", fullmatch=True), unique=True, max_size=15)
TEXTS = st.text("abcÉé世! \n#", max_size=30)


def vocabulary(pieces, normalizer="bert"):
    return WordPiece({text: token for token, text in enumerate([UNKNOWN, *pieces])}, {}, normalizer)


@pytest.mark.parametrize("uncased", [False, True])
@given(pieces=PIECES, text=TEXTS)
def test_ids_are_those_of_hugging_face(uncased, pieces, text):
    ours = vocabulary(pieces, "bert_uncased" if uncased else "bert")
    peer = tokenizers.Tokenizer(models.WordPiece(dict(ours.vocab), unk_token=UNKNOWN))
    peer.normalizer = normalizers.BertNormalizer(lowercase=uncased)
    peer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    assert ours.encode(text) == peer.encode(text).ids


def test_ids_are_those_of_transformers_bert():
    pieces = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "un", "##aff", "##able", "a", "##ff", "!", "世", "resume"]
    ours = vocabulary(pieces, "bert_uncased")
    peer = BertTokenizer(vocab=dict(ours.vocab), do_lower_case=True)
    for text in ("Unaffable!", "a  Résumé!!世a", "unaffordable a"):
        assert ours.encode(text) == peer.encode(text, add_special_tokens=False)


def test_the_longest_piece_from_the_left_though_another_one_would_fit():
    assert vocabulary(["ab", "a", "##b", "##ba"]).encode("abb aba") == [1, 3, 0]


def test_words_of_more_than_a_hundred_characters_are_unknown():
    ours = vocabulary(["a", "##a"])
    assert ours.encode("a" * LONGEST_WORD) == [1] + [2] * (LONGEST_WORD - 1)
    assert ours.encode("a" * (LONGEST_WORD + 1)) == [0]
