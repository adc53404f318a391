"""ROUGE-L equals Google Research's package, and the subsequence one that is found by trying all."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from vesalius.evals.rouge import Rouge, longest_common_subsequence, rouge_l

SCORER = RougeScorer(["rougeL"])
sentences = st.lists(st.sampled_from(["the", "Sum", "of", "x2", "`a_b`", "it's", "-", "é", "\n"]), max_size=12)


@given(reference=sentences, answer=sentences)
@settings(max_examples=200, deadline=None)
def test_scores_are_rouge_score_s(reference: list[str], answer: list[str]) -> None:
    ours = rouge_l(" ".join(reference), " ".join(answer))
    theirs = SCORER.score(" ".join(reference), " ".join(answer))["rougeL"]
    assert (ours.precision, ours.recall, ours.f1) == pytest.approx((theirs.precision, theirs.recall, theirs.fmeasure))


@given(first=st.text("abc", max_size=7), second=st.text("abc", max_size=7))
def test_the_subsequence_is_the_longest_of_all_that_both_have(first: str, second: str) -> None:
    def subsequences(text: str) -> set[tuple[str, ...]]:
        return {found for size in range(len(text) + 1) for found in itertools.combinations(text, size)}

    assert longest_common_subsequence(first, second) == max(map(len, subsequences(first) & subsequences(second)))


@pytest.mark.parametrize(("reference", "answer"), [("", "a"), ("a", ""), ("", ""), ("a", "é")])
def test_a_text_without_words_has_nothing_in_common(reference: str, answer: str) -> None:
    assert rouge_l(reference, answer) == Rouge(0.0, 0.0, 0.0)
