import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import LlamaTokenizer
from transformers.convert_slow_tokenizer import generate_merges

from vesalius.core.errors import UserError
from vesalius.tokenizers.gguf.keys import PREFIX
from vesalius.tokenizers.gguf.reading import tokenizer_from_gguf
from vesalius.tokenizers.sentencepiece_like import merges_of, sentencepiece_unigram

ANY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
PERIODIC = st.text("aab= ▁e", max_size=40)
CODE = st.lists(st.sampled_from(["    ", "self", ".", "x", " = ", "====", "\n", "é", "🤖", "\t", "the "])).map("".join)
SPECIALS = st.lists(st.sampled_from(["<s>", "</s>", "<unk>", "a", " ", "<", "s>"])).map("".join)
TEXTS = ANY | PERIODIC | CODE | SPECIALS
USER_DEFINED = ["<tool>", "▁▁", "▁▁▁", "\n\n"]


@pytest.fixture(scope="module")
def bpe_peer(train_sentencepiece):
    return train_sentencepiece("bpe")


@pytest.fixture(scope="module")
def bpe_tokenizer(bpe_peer, gguf_of):
    return tokenizer_from_gguf(gguf_of(bpe_peer, "llama"))


@pytest.fixture(scope="module")
def converted(bpe_peer):
    """The same vocabulary as transformers converts it."""
    numbers = range(bpe_peer.vocab_size())
    vocab = {bpe_peer.id_to_piece(number): number for number in numbers}
    scores = [(bpe_peer.id_to_piece(number), bpe_peer.get_score(number)) for number in numbers]
    merges = generate_merges(vocab, scores, skip_tokens=["<unk>", "<s>", "</s>"])
    return LlamaTokenizer(vocab=vocab, merges=merges, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@given(text=TEXTS)
def test_bpe_gives_the_ids_and_the_text_of_sentencepiece(bpe_tokenizer, bpe_peer, text):
    ids = bpe_tokenizer.encode(text)
    assert ids == bpe_peer.encode(text)
    assert bpe_tokenizer.decode(ids) == bpe_peer.decode(ids)


@given(text=ANY | CODE)
def test_bpe_gives_the_ids_of_transformers_conversion(bpe_tokenizer, converted, text):
    # transformers puts no blank before a blank, and takes special tokens out of text
    assume("<" not in text and not text.startswith((" ", "▁")))
    assert bpe_tokenizer.encode(text) == converted.encode(text, add_special_tokens=False)


def test_merges_are_those_of_transformers_conversion(bpe_tokenizer, bpe_peer, converted):
    numbers = range(bpe_peer.vocab_size())
    pieces, scores = zip(*((bpe_peer.id_to_piece(i), bpe_peer.get_score(i)) for i in numbers), strict=True)
    theirs = generate_merges(
        {piece: number for number, piece in enumerate(pieces)},
        list(zip(pieces, scores, strict=True)),
        skip_tokens=["<unk>", "<s>", "</s>"],
    )
    assert merges_of(pieces, scores, [0, 1, 2]) == theirs


@given(text=TEXTS | st.lists(st.sampled_from([*USER_DEFINED, "  ", "x", "\n"])).map("".join))
def test_user_defined_pieces_are_never_split(train_user_defined, text):
    ours, peer = train_user_defined
    assume("▁" not in text)  # converters write these pieces with spaces, and then the sign itself is ordinary text
    assert ours.encode(text) == peer.encode(text)


@pytest.fixture(scope="module")
def train_user_defined(train_sentencepiece, gguf_of):
    peer = train_sentencepiece("bpe", user_defined_symbols=USER_DEFINED, add_dummy_prefix=False)
    return tokenizer_from_gguf(gguf_of(peer, "llama", USER_DEFINED, add_space_prefix=False)), peer


@pytest.fixture(scope="module", params=[{}, {"byte_fallback": False, "vocab_size": 340}])
def unigram(request, train_sentencepiece, gguf_of):
    peer = train_sentencepiece("unigram", **{"vocab_size": 600, **request.param})
    return tokenizer_from_gguf(gguf_of(peer, "t5", add_eos_token=False)), peer


@given(text=TEXTS)
def test_unigram_gives_the_ids_and_the_text_of_sentencepiece(unigram, text):
    ours, peer = unigram
    ids = ours.encode(text)
    if not any(special in text for special in ("<s>", "</s>", "<unk>")):
        assert ids == peer.encode(text)
        if ours.unknown_id not in ids:
            assert ours.decode(ids) == peer.decode(ids)
    assert not {1, 2} & set(ids)  # <s> and </s> are pieces of its vocabulary, and no text may give them


def test_single_spaces(train_sentencepiece, gguf_of):
    peer = train_sentencepiece("unigram", vocab_size=600, remove_extra_whitespaces=True)
    ours = tokenizer_from_gguf(gguf_of(peer, "t5", remove_extra_whitespaces=True))
    for text in ("  two  words   ", "", "   ", "one"):
        assert ours.encode(text) == peer.encode(text)


def test_equal_scores_take_the_longer_left_half_first():
    assert merges_of(["a", "b", "ab", "aba", "ba"], [0, 0, -1, -1, -1], ()) == [
        ("ab", "a"),
        ("a", "ba"),
        ("a", "b"),
        ("b", "a"),
    ]


def test_no_merge_makes_or_uses_a_hidden_token():
    assert merges_of(["<", "s", ">", "<s", "<s>"], [0, 0, 0, -1, 0], [4]) == [("<", "s")]
    assert merges_of(["<", "s", ">", "<s", "<s>"], [0, 0, 0, -1, 0], [3]) == []


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        ({"charsmap": b"\xff\xff"}, "SentencePiece's rules of normalisation cannot be read"),
        ({"unknown_id": 7}, "not a Unigram vocabulary"),
    ],
)
def test_a_broken_unigram_vocabulary(broken, complaint):
    options = {"unknown_id": 0, "byte_fallback": False, "space_prefix": True} | broken
    with pytest.raises(UserError, match=complaint):
        sentencepiece_unigram([("<unk>", 0.0), ("a", -1.0)], **options)


def test_the_blank_before_a_text_is_the_files_choice(bpe_peer, gguf_of):
    without = tokenizer_from_gguf(gguf_of(bpe_peer, "llama", add_space_prefix=False))
    piece = bpe_peer.piece_to_id
    assert without.encode("=") == [piece("=")]
    assert tokenizer_from_gguf({**gguf_of(bpe_peer, "llama"), PREFIX + "pre": "default"}).encode("=") != [piece("=")]
