"""Answers in steps from files: one shape, and what is wrong with a row is told with file and line."""

import json
from pathlib import Path
from typing import Any

import pytest

from vesalius.core.errors import UserError
from vesalius.data.solutions import read_solutions

ROW = {"prompt": "1 + 2 + 3?", "completions": ["1 + 2 = 3", "3 + 3 = 7"], "labels": [True, False]}


def write_lines(folder: Path, *rows: Any) -> str:
    path = folder / "steps.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_row_is_a_solution(tmp_path: Path) -> None:
    [found] = read_solutions([write_lines(tmp_path, ROW)])
    assert found.prompt == [{"role": "user", "content": "1 + 2 + 3?"}]
    assert (found.steps, found.labels) == (("1 + 2 = 3", "3 + 3 = 7"), (True, False))
    assert found.name.endswith("steps.jsonl:1")


def test_labels_may_be_numbers_and_prompts_messages_with_a_system(tmp_path: Path) -> None:
    prompt = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "1?"},
    ]
    [found] = read_solutions([write_lines(tmp_path, ROW | {"prompt": prompt, "labels": [1, 0], "system": "Be kind."})])
    assert found.prompt == [{"role": "system", "content": "Be kind."}, *prompt]
    assert found.labels == (True, False)


def test_solutions_of_one_prompt_have_one_split_key(tmp_path: Path) -> None:
    rows = [ROW, ROW | {"completions": ["6"], "labels": [True]}, ROW | {"prompt": "2 + 2?"}]
    first, same, other = (solution.split_key for solution in read_solutions([write_lines(tmp_path, *rows)]))
    assert first == same != other


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"completions": ["a"]}, "has 1 steps and 2 labels"),
        ({"completions": ["a", " "]}, "completions must be a list of steps, none of them empty"),
        ({"completions": []}, "completions must be a list of steps"),
        ({"completions": "a"}, 'completions must be a list of steps, none of them empty, got "a"'),
        ({"labels": [True, 2]}, "labels must be a list of true and false"),
        ({"labels": True}, "labels must be a list of true and false"),
        ({"prompt": []}, "the prompt is empty"),
        ({"prompt": 3}, "expected a list of objects with role and content, got 3"),
    ],
)
def test_a_broken_row_is_told_with_its_place(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"steps\.jsonl:2.*{message}"):
        list(read_solutions([write_lines(tmp_path, ROW, ROW | change)]))


def test_a_row_without_labels_is_told_by_its_fields(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has the fields completion, prompt; expected prompt, completions, labels"):
        list(read_solutions([write_lines(tmp_path, {"prompt": "a", "completion": "b"})]))


def test_an_unknown_name_is_told_at_once() -> None:
    with pytest.raises(UserError, match="did you mean 'steps:arithmetic'"):
        read_solutions(["steps:aritmetic"])
