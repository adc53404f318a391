"""Rewards by name, weighted, and less for what is too long."""

import pytest

from vesalius.align.rewards.compose import LengthPenalty, build_reward, judge_many
from vesalius.align.rewards.matches import NumberMatch
from vesalius.align.rewards.verdict import Verdict
from vesalius.core.errors import UserError
from vesalius.data.task import Case, Task


def task(kind: str, **fields) -> Task:
    return Task(messages=[{"role": "user", "content": "?"}], kind=kind, name="t", split_key="t", **fields)


NUMBER = task("number", answer="42")
TASKS = [
    NUMBER,
    task("exact", answer="Paris"),
    task("json", schema={"type": "integer"}),
    task("python", function="f", cases=(Case((), 1),)),
]
RIGHT = ["It is 42.", "paris", "7", "def f(): return 1"]


def test_each_kind_is_checked_in_its_own_way():
    reward = build_reward({"verified": 1.0})
    assert [float(verdict) for verdict in judge_many(reward, TASKS, RIGHT)] == [1, 1, 1, 1]
    assert [float(verdict) for verdict in judge_many(reward, TASKS, ["1", "2", "x", "def f(): return 2"])] == [
        0,
        0,
        0,
        0,
    ]
    for one, text in zip(TASKS, RIGHT, strict=True):
        assert float(reward(one, text)) == 1


def test_weights_make_a_mean_with_its_parts():
    reward = build_reward({"verified": 3.0, "format": 1.0}, where="tagged")
    assert float(reward(NUMBER, "<think>6 × 7</think><answer>42</answer>")) == 1
    wrong = reward(NUMBER, "<think>6 × 7</think><answer>41</answer>")
    assert (wrong.value, wrong.parts) == (0.25, {"verified": 0.0, "format": 1.0})
    assert wrong.reason == "verified: 41 is not 42; format: one thought, one answer"
    assert reward(NUMBER, "<answer>42</answer>").value == 0.75


def test_form_alone_is_worth_what_it_weighs():
    reward = build_reward({"verified": 9.0, "tags": 1.0}, where="tagged")
    assert reward(NUMBER, "<think>").value == pytest.approx(0.025)


@pytest.mark.parametrize(("length", "value"), [(2, 1.0), (10, 1.0), (15, 0.5), (20, 0.0), (500, 0.0)])
def test_what_is_too_long_loses_what_it_earned(length, value):
    verdict = LengthPenalty(NumberMatch(), free=10, most=20)(NUMBER, "42".rjust(length))
    assert verdict.value == value


def test_lengths_come_from_the_recipe():
    reward = build_reward({"verified": 1.0}, free_length=4, most_length=8)
    assert reward(NUMBER, "  42  ").parts == {"verified": 1.0, "length": 0.5}


@pytest.mark.parametrize(
    ("weights", "options", "message"),
    [
        ({"verfied": 1.0}, {}, "unknown reward 'verfied', did you mean 'verified'"),
        ({}, {}, "at least one name"),
        ({"verified": 0.0}, {}, "a weight above 0"),
        ({"verified": float("nan")}, {}, "a weight above 0"),
        ({"verified": 1.0}, {"where": "lst"}, "did you mean 'last'"),
        ({"verified": 1.0}, {"free_length": 4}, "give both"),
        ({"verified": 1.0}, {"free_length": 4, "most_length": 4}, "the second one greater"),
    ],
)
def test_what_cannot_be_built_is_told(weights, options, message):
    with pytest.raises(UserError, match=message):
        build_reward(weights, **options)


def test_a_verdict_outside_of_its_range_is_a_mistake():
    with pytest.raises(ValueError, match="expected 0 to 1"):
        Verdict(1.5, "")
