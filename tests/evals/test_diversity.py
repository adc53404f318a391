"""Diversity by hand equals nltk's BLEU and scipy's entropy, and falls where texts become alike."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from scipy.stats import entropy as scipy_entropy

from vesalius.evals.diversity import distinct, diversity, entropy, self_bleu, split_words

texts = st.lists(st.lists(st.sampled_from("abcd"), min_size=4, max_size=12), min_size=2, max_size=6)


@given(texts)
def test_self_bleu_equals_nltks(words: list[list[str]]) -> None:
    smoothing = SmoothingFunction(epsilon=0.1).method1
    expected = [
        sentence_bleu(words[:i] + words[i + 1 :], text, smoothing_function=smoothing) for i, text in enumerate(words)
    ]
    assert self_bleu(words) == pytest.approx(np.mean(expected), rel=1e-9, abs=1e-12)


@given(texts, st.integers(1, 3))
def test_entropy_equals_scipys(words: list[list[str]], n: int) -> None:
    grams = [tuple(text[i : i + n]) for text in words for i in range(len(text) - n + 1)]
    _, counts = np.unique(grams, axis=0, return_counts=True)
    assert entropy(words, n) == pytest.approx(scipy_entropy(counts, base=2), abs=1e-9)


@given(texts, st.integers(1, 3))
def test_distinct_counts_different_ones(words: list[list[str]], n: int) -> None:
    grams = [tuple(text[i : i + n]) for text in words for i in range(len(text) - n + 1)]
    assert distinct(words, n) == len({*grams}) / len(grams)


def test_the_same_text_again_and_again_is_a_collapse() -> None:
    different = diversity(["the cat sat on the mat", "four dogs ran over a hill", "we sang an old song at dawn"])
    collapsed = diversity(["the cat sat on the mat"] * 3)
    assert collapsed.self_bleu == pytest.approx(1.0)
    assert different.self_bleu < 0.1
    assert collapsed.distinct_2 < different.distinct_2
    assert collapsed.entropy < different.entropy


def test_few_or_empty_texts_have_measures_too() -> None:
    assert diversity([]).distinct_1 == 0
    assert diversity(["one"]).self_bleu is None
    assert diversity(["", "a b"]).self_bleu == 0
    with pytest.raises(ValueError, match="two are needed, got 1"):
        self_bleu([["a"]])


def test_words_are_letters_or_single_signs_in_lower_case() -> None:
    assert split_words("Größe: 3.5!") == ["größe", ":", "3", ".", "5", "!"]
