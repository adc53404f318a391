"""Pairs about the standard library: always the same, true answers chosen, and nothing taken from another module."""

from itertools import islice

import pytest

from vesalius.data.conversation import Conversation
from vesalius.data.python_preferences import pairs_from, python_pairs
from vesalius.data.python_questions import python_conversations


def conversation(answer: str, name: str, module: str = "m") -> Conversation:
    return Conversation([{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}], name, module)


def rejected(*answers: str, seeds: int = 40) -> set[str]:
    """What the first answer is set against over many seeds; the others are its module's."""
    talks = [conversation(answer, str(i)) for i, answer in enumerate(answers)]
    return {next(pairs_from(talks, seed)).rejected[0]["content"] for seed in range(seeds)}


VAGUE = {"It depends.", "It does what its name says.", "It is part of Python.", "See the documentation."}


@pytest.fixture(scope="module")
def talks() -> list[Conversation]:
    return list(python_conversations())


def test_the_chosen_answer_is_the_last_of_the_conversation_and_the_worse_one_differs(talks) -> None:
    pairs = list(python_pairs())
    assert len(pairs) == len(talks)
    for talk, pair in zip(talks, pairs, strict=True):
        assert pair.prompt + pair.chosen == talk.messages
        assert pair.rejected[0]["role"] == "assistant"
        assert pair.rejected[0]["content"].strip() not in ("", pair.chosen[0]["content"])
        assert (pair.name, pair.split_key) == (talk.name, talk.split_key)


def test_a_seed_makes_the_same_pairs_and_another_seed_others(talks) -> None:
    first, same, other = (list(islice(pairs_from(talks, seed), 50)) for seed in (0, 0, 1))
    assert first == same != other


def test_each_form_of_answer_has_its_wrong_facts() -> None:
    assert "It takes one parameter: `a`." in rejected("It takes two parameters: `a` and `*b`.")
    assert "It takes no parameters." in rejected("It takes one parameter: `a`.")
    assert "It takes one parameter: `self`." in rejected("It takes no parameters.")
    assert "`f(b=1)`" in rejected("`f(a, b=1)`")
    assert "`f(self)`" in rejected("`f()`")
    assert "`f()`" in rejected("`f(a)`")
    assert "`x` is in the module `builtins`." in rejected("`x` is in the module `x`.")
    assert "It sets the sum." in rejected("It returns the sum.")


def test_another_s_answer_is_of_the_same_form_and_module() -> None:
    found = rejected("`a(x)`", "`b(y)`", "It returns y.")
    assert "`b(y)`" in found
    assert "It returns y." not in found
    talks = [conversation("`a(x)`", "a"), conversation("`b(y)`", "b", module="other")]
    for seed in range(40):
        assert next(pairs_from(talks, seed)).rejected[0]["content"] != "`b(y)`"


def test_long_answers_are_broken_off_somewhere_in_their_first_half() -> None:
    answer = "It is a table of names and of the values that they have."
    broken = {text for text in rejected(answer) if answer.startswith(text)}
    assert broken
    assert all(2 <= len(text.split()) <= 2 + len(answer.split()) // 2 for text in broken)
