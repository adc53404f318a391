"""Generated tasks are right, repeatable and split; files of tasks are read or told apart by line."""

import json
import re
from pathlib import Path

import pytest

from vesalius.core.errors import UserError
from vesalius.data.python_tasks import _CHANGE, _FINISH, _KEEP
from vesalius.data.split import is_validation
from vesalius.data.task import Case, Task
from vesalius.data.tasks import read_tasks
from vesalius.data.word_tasks import TEMPLATES

SPECS = ("tasks:arithmetic", "tasks:words", "tasks:python")


@pytest.mark.parametrize("spec", SPECS)
def test_a_seed_gives_the_same_tasks_and_another_one_others(spec):
    first, again, other = (list(read_tasks([f"{spec}?seed={seed}&count=60"])) for seed in (3, 3, 4))
    assert first == again
    assert [task.prompt for task in first] != [task.prompt for task in other]
    assert len({task.prompt for task in first}) == 60


@pytest.mark.parametrize("spec", SPECS)
def test_no_task_is_on_both_sides(spec):
    tasks = list(read_tasks([spec]))
    held_out = [task for task in tasks if is_validation(task.split_key, 0.2)]
    assert 0.1 < len(held_out) / len(tasks) < 0.3
    trained = {task.prompt for task in tasks} - {task.prompt for task in held_out}
    assert len(trained) + len({task.prompt for task in held_out}) == len(tasks)


def test_arithmetic_is_right_and_of_the_asked_digits():
    signs = {"+": int.__add__, "-": int.__sub__, "×": int.__mul__}
    tasks = list(read_tasks(["tasks:arithmetic"]))
    for task in tasks:
        left, sign, right = re.fullmatch(r"What is (\d+) (.) (\d+)\?", task.prompt).groups()
        assert task.answer == str(signs[sign](int(left), int(right)))
        assert len(left) <= 2 >= len(right)
    assert {task.prompt.split()[3] for task in tasks} == set(signs)


def test_options_narrow_arithmetic_down():
    tasks = list(read_tasks(["tasks:arithmetic?digits=1&operations=add&count=5000"]))
    assert len(tasks) == 100
    assert all(re.fullmatch(r"What is \d \+ \d\?", task.prompt) for task in tasks)


def test_a_sum_and_its_mirror_image_are_on_one_side():
    tasks = {task.prompt: task for task in read_tasks(["tasks:arithmetic?digits=1&count=300"])}
    assert tasks["What is 3 + 8?"].split_key == tasks["What is 8 + 3?"].split_key
    assert tasks["What is 3 - 8?"].split_key != tasks["What is 8 - 3?"].split_key


def test_every_story_has_its_numbers_and_a_whole_answer():
    tasks = list(read_tasks(["tasks:words"]))
    used = {task.split_key.split()[1] for task in tasks}
    assert len(used) == len(TEMPLATES)
    for task in tasks:
        number, a, b, c = map(int, task.split_key.split()[1:])
        assert int(task.answer) >= 0
        assert {str(a), str(b)} <= set(re.findall(r"\d+", task.prompt))
        story = TEMPLATES[number].story
        assert ("{c}" in story) == (TEMPLATES[number].answer(a, b, c) != TEMPLATES[number].answer(a, b, c + 1))


def test_python_tests_are_not_the_examples_of_the_prompt():
    tasks = list(read_tasks(["tasks:python"]))
    assert len(tasks) == len(_KEEP) * len(_CHANGE) * len(_FINISH)
    for task in tasks:
        shown = re.findall(r"solve\((.*)\) ==", task.prompt)
        assert len(shown) == 2
        assert not {str(case.arguments[0]) for case in task.cases} & set(shown)


def test_a_function_does_what_its_sentence_says():
    """By comprehensions written here: the oracle of one chain of each kind."""
    by_prompt = {task.prompt.partition(" that ")[2].partition(".")[0]: task for task in read_tasks(["tasks:python"])}
    oracles = {
        "keeps the odd numbers, squares each and returns their sum": lambda xs: sum(x**2 for x in xs if x % 2),
        "keeps the multiples of 3, negates each and returns them as a sorted list": lambda xs: sorted(
            -x for x in xs if x % 3 == 0
        ),
        "takes all numbers, doubles each and returns the largest, or None where there are none": lambda xs: (
            2 * max(xs) if xs else None
        ),
    }
    for deed, oracle in oracles.items():
        for case in by_prompt[deed].cases:
            assert oracle(*case.arguments) == case.expected


def written(folder: Path, *rows: dict | str) -> str:
    path = folder / "tasks.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return str(path)


def read(folder: Path, *rows: dict | str) -> list[Task]:
    return list(read_tasks([written(folder, *rows)]))


def test_rows_say_their_kind_or_show_it(tmp_path):
    tasks = read(
        tmp_path,
        {"prompt": "6 × 7?", "answer": 42},
        {"question": "How many?", "answer": "6 and 7 make <<6+7=13>>13.\n#### 1,013"},
        {"prompt": "Capital of France?", "answer": "Paris", "system": "Be brief."},
        {"prompt": "Code?", "answer": "007", "kind": "exact"},
        {"messages": [{"role": "user", "content": "A number as JSON"}], "schema": {"type": "number"}},
        {"prompt": "Add.", "tests": ["assert add(1, 2) == 3", "assert add((1,), ()) == (1,)"]},
    )
    assert [task.kind for task in tasks] == ["number", "number", "exact", "exact", "json", "python"]
    assert [task.answer for task in tasks] == ["42", "1013", "Paris", "007", "", ""]
    assert tasks[2].messages[0] == {"role": "system", "content": "Be brief."}
    assert tasks[4].schema == {"type": "number"}
    assert (tasks[5].function, tasks[5].cases) == ("add", (Case((1, 2), 3), Case(((1,), ()), (1,))))
    assert [task.name.rpartition(":")[2] for task in tasks] == list("123456")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": 3}, "expected prompt or messages"),
        ({"prompt": "", "answer": 3}, "expected prompt or messages"),
        ({"prompt": "?"}, "answer must be a text that is not empty, got null"),
        ({"prompt": "?", "answer": " "}, "answer must be a text that is not empty"),
        ({"prompt": "?", "answer": "two", "kind": "number"}, 'answer must be a number, got "two"'),
        ({"prompt": "?", "answer": float("inf"), "kind": "number"}, "answer must be a number"),
        ({"prompt": "?", "answer": True}, "answer must be a text"),
        ({"prompt": "?", "answer": 3, "kind": "nmber"}, "unknown kind \"nmber\", did you mean 'number'"),
        ({"prompt": "?", "schema": {"type": "intger"}}, "schema is no JSON Schema"),
        ({"prompt": "?", "schema": "{"}, "schema is not JSON"),
        ({"prompt": "?", "schema": []}, "schema must be a JSON Schema as an object"),
        ({"prompt": "?", "tests": []}, "tests must be a list of texts, at least one"),
        ({"prompt": "?", "tests": ["assert f(1) == g(1)"]}, "must be of the form"),
        ({"prompt": "?", "tests": ["assert f(x=1) == 1"]}, "must be of the form"),
        ({"prompt": "?", "tests": ["assert f(1) == b'x'"]}, "must be of the form"),
        ({"prompt": "?", "tests": ["import os"]}, "must be of the form"),
        ({"prompt": "?", "tests": ["assert f(1) =="]}, "must be of the form"),
        ({"prompt": "?", "tests": ["assert f(1) == 1", "assert g(1) == 1"]}, "the tests call f and g"),
        ({"messages": [{"role": "assistant", "content": "Hi"}], "answer": 3}, "ends with the assistant's turn"),
        ({"messages": [{"role": "owl", "content": "Hoo"}], "answer": 3}, 'unknown role "owl"'),
        ("{", "not valid JSON"),
    ],
)
def test_a_row_that_cannot_be_a_task_is_told_with_its_line(tmp_path, row, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        read(tmp_path, {"prompt": "6 × 7?", "answer": 42}, row)
    assert "tasks.jsonl:2" in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tasks:arithmetics", "unknown tasks 'tasks:arithmetics', did you mean 'tasks:arithmetic'"),
        ("tasks:words?sede=1", "unknown option 'sede', did you mean 'seed'"),
        ("tasks:words?seed=x", "seed = 'x', expected a whole number"),
        ("tasks:arithmetic?digits=5", "expected a whole number from 1 to 4"),
        ("tasks:arithmetic?operations=divide", "unknown operation 'divide'"),
        ("nowhere.jsonl", "no such file"),
    ],
)
def test_an_unknown_name_or_option_is_told_at_once(spec, message):
    with pytest.raises(UserError, match=re.escape(message)):
        read_tasks([spec])
