import itertools
import json

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers

from vesalius.core.errors import UserError
from vesalius.tokenizers.backends import add_tokens, byte_level_backend
from vesalius.tokenizers.gguf.keys import PREFIX, UNUSED
from vesalius.tokenizers.gguf.pretokenizers import PRETOKENIZERS
from vesalius.tokenizers.gguf.reading import tokenizer_from_gguf
from vesalius.tokenizers.gguf.writing import gguf_metadata_of
from vesalius.tokenizers.pretokenize import to_printable
from vesalius.tokenizers.tokenizer import Tokenizer

TEXTS = st.text(st.characters(exclude_categories=["Cs"])) | st.lists(
    st.sampled_from(["<|im_end|>", "</s>", "    ", "def ", "\n", "aaa", "====", "é", "12345", "'ll", " "])
).map("".join)


@pytest.fixture(scope="module", params=["ours", "bpe", "bpe without blank", "unigram", "unigram of single spaces"])
def written(request, tokenizer, train_sentencepiece, gguf_of):
    """A tokenizer, and the one that is read from what was written of it."""
    kind, _, rest = request.param.partition(" ")
    if kind == "ours":
        first = tokenizer
    elif kind == "bpe":
        first = tokenizer_from_gguf(gguf_of(train_sentencepiece("bpe"), "llama", add_space_prefix=not rest))
    else:
        peer = train_sentencepiece("unigram", vocab_size=600)
        first = tokenizer_from_gguf(gguf_of(peer, "t5", remove_extra_whitespaces=bool(rest)))
    return first, tokenizer_from_gguf(gguf_metadata_of(first))


def with_backend(tokenizer, **parts):
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    for name, part in parts.items():
        setattr(backend, name, part)
    return Tokenizer(backend, tokenizer.config)


def bare(bpe, pre_tokenizer=None, **options):
    """A byte-level tokenizer with another pre-tokenizer."""
    vocab = {to_printable(token): number for token, number in bpe.vocab.items()} | bpe.special_tokens
    merges = [(to_printable(left), to_printable(right)) for left, right in bpe.merges]
    backend = byte_level_backend(vocab, merges, [], **options)
    add_tokens(backend, {number: AddedToken(text, special=True) for text, number in bpe.special_tokens.items()})
    if pre_tokenizer is not None:
        backend.pre_tokenizer = pre_tokenizer
    return Tokenizer(backend, {"eos_token": "<|im_end|>"})


@given(text=TEXTS)
def test_any_text_gets_the_same_ids_after_writing_and_reading(written, text):
    first, second = written
    ids = first.encode(text)
    assert second.encode(text) == ids
    assert second.decode(ids) == first.decode(ids)
    assert second.encode(text, allow_special=True) == first.encode(text, allow_special=True)


def test_everything_else_is_the_same_too(written):
    first, second = written
    for name in ("bos_id", "eos_ids", "special_tokens", "prompt_prefix", "chat_template", "vocab_size", "unknown_id"):
        assert getattr(second, name) == getattr(first, name), name
    assert gguf_metadata_of(second).keys() == gguf_metadata_of(first).keys()


def test_ours_has_a_name_that_means_exactly_its_rule(tokenizer):
    metadata = gguf_metadata_of(tokenizer)
    assert metadata[PREFIX + "pre"] == "dbrx"
    assert metadata[PREFIX + "add_bos_token"]
    assert (metadata[PREFIX + "bos_token_id"], metadata[PREFIX + "eos_token_id"]) == (0, 2)


def test_rows_that_only_the_model_has_are_unused(tokenizer):
    metadata = gguf_metadata_of(tokenizer, vocab_size=704)
    assert metadata[PREFIX + "tokens"][-1] == "[PAD703]"
    assert metadata[PREFIX + "token_type"][700:] == [UNUSED] * 4
    assert tokenizer_from_gguf(metadata).encode("[PAD703]") == tokenizer.encode("[PAD703]")
    with pytest.raises(UserError, match="the tokenizer has 700 tokens and the model 699"):
        gguf_metadata_of(tokenizer, vocab_size=699)


QWEN2 = PRETOKENIZERS["qwen2"].patterns[0]


@pytest.mark.parametrize(
    ("pre_tokenizer", "name"),
    [
        (pre_tokenizers.ByteLevel(False), "gpt-2"),
        (pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False)]), "smollm"),
        (
            pre_tokenizers.Sequence(
                [pre_tokenizers.Split(Regex(QWEN2), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
            ),
            "stablelm2",
        ),
        (
            pre_tokenizers.Sequence(
                [pre_tokenizers.Split(Regex(QWEN2), "removed", True), pre_tokenizers.ByteLevel(False, use_regex=False)]
            ),
            "stablelm2",
        ),
    ],
)
def test_published_forms_of_a_rule_are_recognised(bpe, pre_tokenizer, name):
    assert gguf_metadata_of(bare(bpe, pre_tokenizer))[PREFIX + "pre"] == name


def test_looking_for_whole_pieces_first_makes_no_difference_where_the_merges_make_every_token(bpe, tokenizer):
    pieces_first = PRETOKENIZERS["minicpm5"]
    split = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in pieces_first.patterns]
    chain = pre_tokenizers.Sequence([*split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    assert gguf_metadata_of(bare(bpe, chain))[PREFIX + "pre"] == "minicpm5"
    vocab = {to_printable(token): number for token, number in bpe.vocab.items()} | bpe.special_tokens
    backend = byte_level_backend(vocab, [], pieces_first.patterns)
    with pytest.raises(UserError, match="has no name for how this tokenizer cuts text"):
        gguf_metadata_of(Tokenizer(backend, {}))


def test_a_beginning_token_is_asked_for_where_the_tokenizer_writes_one(bpe):
    assert not gguf_metadata_of(bare(bpe, pre_tokenizers.ByteLevel(False)))[PREFIX + "add_bos_token"]


def test_more_end_tokens_have_their_own_keys(tokenizer):
    again = tokenizer_from_gguf(gguf_metadata_of(Tokenizer(tokenizer.backend, tokenizer.config, [7, 9])))
    assert again.eos_ids == (0, 2, 7, 9)
    with pytest.raises(UserError, match=r"keys for 2 end tokens, this tokenizer has \[7, 8, 9\]"):
        gguf_metadata_of(Tokenizer(tokenizer.backend, tokenizer.config, [7, 8, 9]))


def refused(tokenizer, bpe, name):
    chain = pre_tokenizers.ByteLevel(False)
    return {
        "another pattern": lambda: bare(bpe, pre_tokenizers.Split(Regex("[ab]"), "isolated")),
        "another step": lambda: bare(bpe, pre_tokenizers.Sequence([pre_tokenizers.UnicodeScripts(), chain])),
        "a blank first": lambda: bare(bpe, pre_tokenizers.ByteLevel(True)),
        "lower case": lambda: with_backend(tokenizer, normalizer=normalizers.Lowercase()),
        "words": lambda: Tokenizer(tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, "a")), {}),
    }[name]()


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("another pattern", r"no name for how this tokenizer cuts text \(\[ab\]\)"),
        ("another step", "no name for how this tokenizer cuts text .*UnicodeScripts"),
        ("a blank first", "no name for how this tokenizer cuts text .*ByteLevel"),
        ("lower case", r"cannot say what the tokenizer does to a text first \(Lowercase\)"),
        ("words", "GGUF has no tokenizer of kind WordLevel"),
    ],
)
def test_what_the_format_cannot_say_is_refused(tokenizer, bpe, name, complaint):
    with pytest.raises(UserError, match=complaint):
        gguf_metadata_of(refused(tokenizer, bpe, name))


def edited(tokenizer, edit):
    content = json.loads(tokenizer.backend.to_str())
    edit(content)
    return Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(content)), tokenizer.config)


def test_merges_that_no_scores_mean_are_refused(train_sentencepiece, gguf_of):
    tokenizer = tokenizer_from_gguf(gguf_of(train_sentencepiece("bpe"), "llama"))

    def take_out_a_way(content):
        made = [left + right for left, right in content["model"]["merges"]]
        twice = next(place for place, token in enumerate(made) if made.count(token) > 1)
        del content["model"]["merges"][twice]

    with pytest.raises(UserError, match="not those of a scored SentencePiece vocabulary"):
        gguf_metadata_of(edited(tokenizer, take_out_a_way))


def test_a_blank_only_before_the_first_word_is_refused(train_sentencepiece, gguf_of):
    tokenizer = tokenizer_from_gguf(gguf_of(train_sentencepiece("bpe"), "llama"))
    first = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    with pytest.raises(UserError, match="a blank before a text but not behind its special tokens"):
        gguf_metadata_of(with_backend(tokenizer, normalizer=normalizers.Sequence([]), pre_tokenizer=first))


def test_a_unigram_vocabulary_that_cuts_words_first_is_refused(train_sentencepiece, gguf_of):
    tokenizer = tokenizer_from_gguf(gguf_of(train_sentencepiece("unigram", vocab_size=600), "t5"))
    with pytest.raises(UserError, match="what this Unigram tokenizer does to a text"):
        gguf_metadata_of(with_backend(tokenizer, pre_tokenizer=pre_tokenizers.WhitespaceSplit()))


@pytest.mark.parametrize(
    "parts",
    [
        {"normalizer": normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(" ", "▁")])},
        {"pre_tokenizer": pre_tokenizers.Digits(True)},
    ],
)
def test_a_sentencepiece_bpe_that_does_more_to_a_text_is_refused(train_sentencepiece, gguf_of, parts):
    tokenizer = tokenizer_from_gguf(gguf_of(train_sentencepiece("bpe"), "llama"))
    with pytest.raises(UserError, match="GGUF cannot say what this tokenizer does to a text"):
        gguf_metadata_of(with_backend(tokenizer, **parts))


def test_the_order_of_the_ways_to_make_a_token_may_be_another(train_sentencepiece, gguf_of):
    tokenizer = tokenizer_from_gguf(gguf_of(train_sentencepiece("bpe"), "llama"))

    def turn_ways(content):
        merges = content["model"]["merges"]
        runs = itertools.groupby(merges, "".join)
        content["model"]["merges"] = [way for _, ways in runs for way in list(ways)[::-1]]

    assert gguf_metadata_of(edited(tokenizer, turn_ways)) == gguf_metadata_of(tokenizer)
