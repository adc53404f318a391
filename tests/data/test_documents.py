import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vesalius.core.errors import UserError
from vesalius.data.documents import FileSource, find_files, read_documents


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def texts(*specs: str) -> list[str]:
    return [document.text for document in read_documents(specs)]


def test_specs_are_read_in_order_and_globs_sorted(folder):
    for name in ("b.txt", "a.txt", "z.md"):
        (folder / name).write_text(name)

    assert texts("z.md", "*.txt") == ["z.md", "a.txt", "b.txt"]


def test_a_glob_reaches_below_but_not_into_hidden_folders(folder):
    for name in ("one/two", ".git"):
        (folder / name).mkdir(parents=True)
        (folder / name / "a.txt").write_text(name)

    assert texts("**/*.txt") == ["one/two"]


def test_every_kind_of_file_gives_the_same_text(folder):
    rows = [{"id": 1, "text": "hello"}]
    (folder / "a.txt").write_text("hello")
    (folder / "a.jsonl").write_text(json.dumps(rows[0]))
    (folder / "a.json").write_text(json.dumps(rows))
    (folder / "a.csv").write_text("id,text\n1,hello\n")
    pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")

    assert texts("a.txt", "a.jsonl", "a.json", "a.csv", "a.parquet") == ["hello"] * 5


@pytest.mark.parametrize(
    ("spec", "row"),
    [
        ("a.jsonl", {"title": "no", "text": "yes"}),
        ("a.jsonl", {"title": "no", "content": "yes"}),
        ("a.jsonl", {"n": 3, "whatever": "yes"}),
        ("a.jsonl#body", {"text": "no", "body": "yes"}),
    ],
)
def test_the_text_of_a_row_is_the_named_field_or_the_evident_one(folder, spec, row):
    (folder / "a.jsonl").write_text(json.dumps(row))

    assert texts(spec) == ["yes"]


def test_a_row_is_named_by_file_and_line_and_splits_by_its_text(folder):
    (folder / "a.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')

    assert [(d.name, d.split_key) for d in read_documents(["a.jsonl"])] == [("a.jsonl:1", "one"), ("a.jsonl:2", "two")]


def test_rows_without_text_and_blank_files_are_passed_over(folder):
    (folder / "a.jsonl").write_text('{"text": null}\n{"text": ""}\n{"text": "some"}\n')
    (folder / "blank.txt").write_text(" \n")

    assert texts("a.jsonl", "blank.txt") == ["some"]


def test_half_a_surrogate_pair_becomes_a_question_mark(folder):
    (folder / "a.jsonl").write_text(r'{"text": "a\ud83db \ud83e\uddb4"}')

    assert texts("a.jsonl") == ["a?b 🦴"]


@pytest.mark.parametrize(
    ("row", "spec", "message"),
    [
        (
            {"title": "a", "body": "b"},
            "a.jsonl",
            r"a\.jsonl:1 has no field 'text' or 'content'.*#FIELD .fields: title, body",
        ),
        ({"n": 1}, "a.jsonl", "has no field 'text' or 'content'"),
        ({"body": "b"}, "a.jsonl#boddy", "has no field 'boddy', did you mean 'body'"),
        ({"text": ["a"]}, "a.jsonl", "field 'text' is list, expected a string"),
    ],
)
def test_a_row_whose_text_cannot_be_told_is_refused(folder, row, spec, message):
    (folder / "a.jsonl").write_text(json.dumps(row))

    with pytest.raises(UserError, match=message):
        texts(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("missing.txt", "no such file: missing.txt"),
        ("*.nothing", r"no file matches \*.nothing"),
        ("corpus:pyton", "unknown corpus 'corpus:pyton', did you mean 'corpus:python'"),
        ("hf:", "names no dataset, expected hf:owner/name"),
        (".", "is a directory, expected files"),
    ],
)
def test_names_are_checked_before_anything_is_read(folder, spec, message):
    (folder / "a.txt").write_text("fine")

    with pytest.raises(UserError, match=message):
        read_documents(["a.txt", spec])


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_a_corpus_without_text_is_refused(folder, content):
    (folder / "a.txt").write_text(content)

    with pytest.raises(UserError, match=r"the corpus is empty: a\.txt"):
        texts("a.txt")


def test_naming_no_text_is_refused():
    with pytest.raises(UserError, match="the corpus is empty: no text was named"):
        texts()


def test_a_file_whose_name_has_a_hash_is_found(folder):
    (folder / "c#.txt").write_text("sharp")

    assert find_files("c#.txt") == [FileSource(Path("c#.txt"))]
