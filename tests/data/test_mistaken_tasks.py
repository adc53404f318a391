"""Tasks as pairs: the right answer is chosen, the rejected one near it, and a task is held out where its pair is."""

import pytest

from vesalius.core.errors import UserError
from vesalius.data.preferences import read_pairs, read_ratings
from vesalius.data.tasks import read_tasks

SPEC = "tasks:arithmetic?count=2000&operations=add,subtract"


def test_the_right_answer_is_preferred_to_one_near_it():
    pairs, tasks = list(read_pairs([SPEC])), list(read_tasks([SPEC]))
    assert [(pair.prompt, pair.split_key) for pair in pairs] == [(task.messages, task.split_key) for task in tasks]
    assert [pair.chosen for pair in pairs] == [[{"role": "assistant", "content": task.answer}] for task in tasks]
    amiss = [int(pair.rejected[0]["content"]) - int(pair.chosen[0]["content"]) for pair in pairs]
    assert {*amiss} == {1, -1, 2, -2, 3, -3, 10, -10}
    assert abs(sum(amiss)) / len(amiss) < 0.5
    assert 0.35 < sum(abs(by) == 1 for by in amiss) / len(amiss) < 0.45


def test_pairs_are_the_same_each_time():
    assert list(read_pairs([SPEC])) == list(read_pairs([SPEC]))


def test_ratings_are_made_of_them_too():
    ratings, [pair, *_] = list(read_ratings([SPEC])), list(read_pairs([SPEC]))
    assert len(ratings) == 4000
    assert [(rating.answer, rating.desirable) for rating in ratings[:2]] == [
        (pair.chosen, True),
        (pair.rejected, False),
    ]


def test_a_task_without_a_number_is_told():
    with pytest.raises(UserError, match="is checked by python and has no number to miss: give pairs"):
        list(read_pairs(["tasks:python"]))


def test_an_unknown_option_is_told_at_once():
    with pytest.raises(UserError, match="unknown option 'cuont', did you mean 'count'"):
        read_pairs(["tasks:arithmetic?cuont=3"])
