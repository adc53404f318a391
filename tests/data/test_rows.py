import csv
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vesalius.core.errors import UserError
from vesalius.data import text_files
from vesalius.data.rows import read_rows

ROWS = [{"text": "one\ntwo", "n": 1}, {"text": "“drei”, vier", "n": 2}]
json_objects = st.dictionaries(st.text(max_size=3), st.none() | st.integers() | st.text(max_size=9), max_size=3)


def written(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def values(path: Path) -> list[dict]:
    return [row.values for row in read_rows(path)]


def test_json_lines_name_the_line_of_each_row(tmp_path):
    path = written(tmp_path / "a.jsonl", json.dumps(ROWS[0]) + "\n\n" + json.dumps(ROWS[1]))

    assert [(row.values, row.place) for row in read_rows(path)] == [(ROWS[0], f"{path}:1"), (ROWS[1], f"{path}:3")]


@pytest.mark.parametrize("line", ['{"text": "cut', "{text: 1}", '{"a": 1} {"b": 2}'])
def test_a_broken_json_line_is_named(tmp_path, line):
    path = written(tmp_path / "a.jsonl", '{"text": "fine"}\n' + line + "\n")

    with pytest.raises(UserError, match=r"a\.jsonl:2 is not valid JSON"):
        values(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_row_that_is_no_object_is_refused(tmp_path, name):
    with pytest.raises(UserError, match=rf"{name}:1 holds \"only text\", expected an object"):
        values(written(tmp_path / name, '"only text"'))


@given(st.lists(json_objects, max_size=8), st.sampled_from([None, 2]), st.integers(1, 12))
def test_a_json_array_gives_what_json_load_gives(tmp_path_factory, rows, spaces, piece):
    path = written(tmp_path_factory.getbasetemp() / "a.json", json.dumps(rows, indent=spaces, ensure_ascii=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_files, "_PIECE", piece)

        assert values(path) == rows


def test_a_json_file_may_hold_objects_one_after_another(tmp_path):
    assert values(written(tmp_path / "a.json", "\n".join(map(json.dumps, ROWS)))) == ROWS


def test_rows_of_a_json_array_name_the_line_they_start_in(tmp_path):
    path = written(tmp_path / "a.json", json.dumps(ROWS, indent=1))

    assert [row.place for row in read_rows(path)] == [f"{path}:2", f"{path}:6"]


@pytest.mark.parametrize("end", ['{"text": "cut', '{"text": "fine"}', "oops]"])
def test_a_broken_json_array_is_named_with_its_line(tmp_path, end):
    path = written(tmp_path / "a.json", '[{"text": "fine"},\n' + end)

    with pytest.raises(UserError, match=r"a\.json:2 is not valid JSON"):
        values(path)


@given(
    st.lists(st.text(st.characters(exclude_characters="\0\r\ufeff", exclude_categories=["Cs"])), min_size=1, max_size=5)
)
def test_csv_gives_what_was_written(tmp_path_factory, texts):
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, ["id", "text"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({"id": str(i), "text": text} for i, text in enumerate(texts))
    path = written(tmp_path_factory.getbasetemp() / "a.csv", buffer.getvalue())

    assert values(path) == [{"id": str(i), "text": text} for i, text in enumerate(texts)]


def test_csv_fields_may_be_long(tmp_path):
    assert values(written(tmp_path / "a.csv", "text\n" + "x" * 200_000)) == [{"text": "x" * 200_000}]


def test_a_broken_csv_line_is_named(tmp_path):
    with pytest.raises(UserError, match=r"a\.csv:3 is not valid CSV"):
        values(written(tmp_path / "a.csv", 'text\nfine\n"never closed'))


def test_parquet_gives_its_rows(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS * 100), tmp_path / "a.parquet")

    assert values(tmp_path / "a.parquet") == ROWS * 100


def test_parquet_reads_only_the_wanted_columns_that_it_has(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")

    assert next(read_rows(tmp_path / "a.parquet", wanted=("body", "text"))).values == {"text": "one\ntwo"}
    assert next(read_rows(tmp_path / "a.parquet", wanted=("body",))).values == ROWS[0]


def test_what_is_no_parquet_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*a\.parquet as Parquet"):
        values(written(tmp_path / "a.parquet", "plain text"))


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"ending '\.xml', expected one of \.parquet"):
        values(written(tmp_path / "a.xml", "<a/>"))
