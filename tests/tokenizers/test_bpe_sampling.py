"""BPE-dropout."""

import itertools
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from vesalius.tokenizers.bpe import BPE

TEXTS = st.text(st.characters(exclude_categories=["Cn", "Cs"]), max_size=30) | st.lists(
    st.sampled_from(["self", " return", "\n    ", "世界", "123"])
).map("".join)


@given(TEXTS)
def test_without_dropout_a_sample_is_the_encoding(bpe, text):
    assert bpe.sample(text, random.Random(0), dropout=0.0) == bpe.encode(text)


@given(TEXTS)
def test_with_all_merges_left_out_it_is_the_bytes(bpe, text):
    ids = bpe.sample(text, random.Random(0), dropout=1.0)
    assert ids == [bpe.vocab[bytes([byte])] for byte in text.encode()]


@given(TEXTS, st.floats(0, 1), st.integers(0, 99))
def test_text_comes_back_from_every_split(bpe, text, dropout, seed):
    assert bpe.decode(bpe.sample(text, random.Random(seed), dropout)) == text.encode()


MERGES = [(b"a", b"b"), (b"b", b"a"), (b"ab", b"ab"), (b"a", b"ba")]
TOY = BPE({token: number for number, token in enumerate([b"a", b"b", b"ab", b"ba", b"abab", b"aba"])}, MERGES, {})


def distribution(tokens, dropout):
    """Every split that may come of these tokens with its probability, by trying all sets of merges that are kept."""
    pairs = [(MERGES.index(pair), at) for at, pair in enumerate(itertools.pairwise(tokens)) if pair in MERGES]
    found = Counter()
    for kept in itertools.product([False, True], repeat=len(pairs)):
        probability = (1 - dropout) ** sum(kept) * dropout ** (len(kept) - sum(kept))
        if not any(kept):
            found[tokens] += probability
            continue
        _, at = min(itertools.compress(pairs, kept))
        joined = (*tokens[:at], tokens[at] + tokens[at + 1], *tokens[at + 2 :])
        for split, share in distribution(joined, dropout).items():
            found[split] += probability * share
    return found


@pytest.mark.parametrize("dropout", [0.2, 0.6])
def test_splits_come_as_often_as_the_algorithm_says(dropout):
    expected = distribution((b"a", b"b", b"a", b"b"), dropout)
    generator, names = random.Random(0), {number: token for token, number in TOY.vocab.items()}
    drawn = Counter(tuple(names[token] for token in TOY.sample("abab", generator, dropout)) for _ in range(4000))
    assert drawn.keys() <= expected.keys()
    observed = [drawn[split] for split in expected]
    assert chisquare(observed, [4000 * share for share in expected.values()]).pvalue > 0.01


@pytest.mark.parametrize("dropout", [-0.1, 1.5])
def test_what_is_no_probability(bpe, dropout):
    with pytest.raises(ValueError, match=f"dropout must be between 0 and 1, got {dropout}"):
        bpe.sample("text", random.Random(0), dropout)
