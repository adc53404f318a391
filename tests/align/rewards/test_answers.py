"""Where the answer is; and that what can be read in two ways is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vesalius.align.rewards.answers import FINDERS, after_thinking, boxed, last_number, tagged


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("42", "42"), ("The answer is 42.", "42"), ("17 + 25 = 42", "42"), ("So **42**!", "42"), ("= -8", "-8"),
        ("−8", "−8"), ("1,234.50 euros", "1,234.50"), ("3 boxes hold 12 each, 36 in all", "36"), ("$42", "42"),
        ("1e3", "1e3"), ("5 - 13 = -8", "-8"), ("", None), ("none", None), ("x2", None), ("1.2.3", None), ("3rd", None),
    ],
)  # fmt: skip
def test_the_last_number(text, number):
    assert last_number(text) == number


@pytest.mark.parametrize(
    "text",
    [
        "41, 42", "41 42", "41 or 42", "41\n42", "41;42", "41,42", "41|42", "41 and 42", "41/42",
        " ".join(map(str, range(99))),
        "17 + 25", "0 + 42", "1 × 42", "42 - 0", "84/2", "1*42",
    ],
)  # fmt: skip
def test_a_list_of_guesses_or_the_question_said_again_is_no_answer(text):
    assert last_number(text) is None


@pytest.mark.parametrize("find", FINDERS.values())
@pytest.mark.parametrize(
    "text",
    [
        r"<think><answer>42</answer> \boxed{42} 42</think>", r"<think>42 <answer>42</answer> \boxed{42}",
        r"<think>a<think>b</think></think><answer>42</answer> \boxed{42}",
        r"<think>a</think><think>b</think><answer>42</answer> \boxed{42}",
        r"42 <answer>42</answer> \boxed{42}</think>", r"<answer>42</answer> \boxed{42} <think>42</think>",
    ],
)  # fmt: skip
def test_what_stands_in_a_thought_or_beside_broken_thoughts_is_no_answer(find, text):
    assert not find(text)


def test_a_thought_is_left_out():
    assert after_thinking("\n<think>41\n?</think>\n42") == "\n42"
    assert last_number("<think>41</think>I do not know.") is None


@pytest.mark.parametrize(
    "text",
    [
        "<answer>41</answer><answer>42</answer>", "<answer><answer>42</answer></answer>", "<answer>42", "42</answer>",
        "</answer>42<answer>", "<answer>42</answer></answer>", "42",
    ],
)  # fmt: skip
def test_tags_that_are_repeated_nested_or_missing_give_no_answer(text):
    assert tagged(text) is None


@pytest.mark.parametrize("text", [r"\boxed{41} \boxed{42}", r"\boxed{42", r"\boxed{\boxed{42}}", "42"])
def test_boxes_that_are_repeated_or_not_closed_give_no_answer(text):
    assert boxed(text) is None


@given(st.integers(-(10**9), 10**9), st.text(alphabet="abc. \n"))
def test_a_number_is_found_as_it_was_written(number, before):
    text = f"{before} is {number}"
    assert last_number(text) == str(number)
    assert tagged(f"{before}<answer>{number}</answer>") == str(number)
    assert boxed(f"{before}\\boxed{{{number}}}") == str(number)


PIECES = ["<think>", "</think>", "<answer>", "</answer>", "\\boxed{", "}", "4", " ", "is"]


@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_whatever_is_found_stands_behind_the_last_thought(text):
    for find in FINDERS.values():
        found = find(text)
        assert found is None or found in text.rpartition("</think>")[2]
