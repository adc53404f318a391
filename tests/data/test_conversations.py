"""The four shapes of a row all become messages, and what is wrong with a row is told with file and line."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vesalius.core.errors import UserError
from vesalius.data.conversations import read_conversations

EXPECTED = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
SYSTEM = {"role": "system", "content": "Be kind."}
SHAPES: dict[str, tuple[dict[str, Any], list[dict[str, str]]]] = {
    "messages": ({"messages": EXPECTED, "prompt": "Hi", "id": 7}, EXPECTED),
    "prompt and completion": ({"prompt": "Hi", "completion": "Hello"}, EXPECTED),
    "Alpaca": ({"instruction": "Hi", "input": "", "output": "Hello"}, EXPECTED),
    "Alpaca without input": ({"instruction": "Hi", "output": "Hello"}, EXPECTED),
    "Alpaca with input": (
        {"instruction": "Add.", "input": "1 2", "output": "3"},
        [{"role": "user", "content": "Add.\n\n1 2"}, {"role": "assistant", "content": "3"}],
    ),
    "ShareGPT": ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}, EXPECTED),
    "ShareGPT with a system field": (
        {"system": "Be kind.", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        [SYSTEM, *EXPECTED],
    ),
    "ShareGPT with a system turn": (
        {"conversations": [{"from": "system", "value": "Be kind."}, {"from": "gpt", "value": "Hello"}]},
        [SYSTEM, EXPECTED[1]],
    ),
    "conversations with roles": ({"conversations": EXPECTED}, EXPECTED),
}


def write_lines(folder: Path, *rows: Any) -> str:
    path = folder / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_becomes_messages(shape: str, tmp_path: Path) -> None:
    row, expected = SHAPES[shape]
    [conversation] = read_conversations([write_lines(tmp_path, row)])
    assert conversation.messages == expected


def test_name_tells_file_and_line(tmp_path: Path) -> None:
    spec = write_lines(tmp_path, {"messages": EXPECTED}, {"messages": EXPECTED})
    assert [conversation.name for conversation in read_conversations([spec])] == [f"{spec}:1", f"{spec}:2"]


def test_split_key_depends_on_content_alone(tmp_path: Path) -> None:
    other = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Good day"}]
    spec = write_lines(
        tmp_path, {"messages": EXPECTED, "id": 1}, {"prompt": "Hi", "completion": "Hello"}, {"messages": other}
    )
    first, same, different = (conversation.split_key for conversation in read_conversations([spec]))
    assert first == same != different


def test_json_arrays_gzip_parquet_and_globs_are_read_in_order(tmp_path: Path) -> None:
    row = {"prompt": "Hi", "completion": "Hello"}
    (tmp_path / "a.json").write_text(json.dumps([row, row]))
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write(json.dumps(row))
    pq.write_table(pa.Table.from_pylist([{"messages": EXPECTED}]), tmp_path / "c.parquet")
    conversations = list(read_conversations([str(tmp_path / "*")]))
    assert [Path(conversation.name).name for conversation in conversations] == [
        "a.json:1", "a.json:1", "b.jsonl.gz:1", "c.parquet:1",
    ]  # fmt: skip
    assert all(conversation.messages == EXPECTED for conversation in conversations)


def test_half_a_surrogate_pair_becomes_text_that_utf8_can_hold(tmp_path: Path) -> None:
    [conversation] = read_conversations([write_lines(tmp_path, {"prompt": "\ud83d", "completion": "yes"})])
    assert conversation.messages[0]["content"] == "?"


WRONG: dict[str, tuple[Any, str]] = {
    "unknown shape": ({"question": "Hi", "reply": "Hello"}, "the fields question, reply; expected .*messages"),
    "no object": ([1, 2], "expected an object"),
    "empty answer": ({"prompt": "Hi", "completion": " \n"}, "answer is empty"),
    "answer is no text": ({"prompt": "Hi", "completion": None}, "content must be text, got null"),
    "unknown role": ({"messages": [{"role": "asistant", "content": "Hi"}]}, "unknown role \"asistant\".*'assistant'"),
    "no assistant": ({"messages": [{"role": "user", "content": "Hi"}]}, "no assistant turn, only user"),
    "no message": ({"messages": []}, "no assistant turn"),
    "messages are text": ({"messages": "Hi"}, "expected a list of objects"),
    "message of another form": (
        {"messages": [{"speaker": "a", "text": "Hi"}]},
        "the fields speaker, text; expected role",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_row_is_told_with_file_and_line(kind: str, tmp_path: Path) -> None:
    row, message = WRONG[kind]
    spec = write_lines(tmp_path, {"messages": EXPECTED}, row)
    with pytest.raises(UserError, match=rf"chats\.jsonl:2.*{message}"):
        list(read_conversations([spec]))


def test_broken_json_is_told_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({"messages": EXPECTED}) + '\n{"messages": [')
    with pytest.raises(UserError, match=r"chats\.jsonl:2 is not valid JSON"):
        list(read_conversations([str(path)]))


def test_a_missing_file_is_told_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.jsonl"):
        read_conversations([str(tmp_path / "nothing.jsonl")])


def test_unknown_questions_are_told_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match="did you mean 'questions:python'"):
        read_conversations(["questions:pyton"])
