import gzip
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from vesalius.core.errors import UserError
from vesalius.data import text_files
from vesalius.data.text_files import format_of, read_lines, read_pieces, read_text_documents

unicode_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"))


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_text_comes_back_as_written_from_every_compression(tmp_path, ending):
    text = "first\r\nsecond ünïcode 🦴\n" * 50
    compress = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[ending]

    path = written(tmp_path / f"notes.txt{ending}", compress(text.encode()))

    assert "".join(read_pieces(path)) == text


def test_zstandard_files_of_several_frames_are_read_to_the_end(tmp_path):
    path = written(tmp_path / "notes.txt.zst", zstandard.compress(b"one ") + zstandard.compress(b"two"))

    assert "".join(read_pieces(path)) == "one two"


def test_a_character_cut_by_two_pieces_is_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "_PIECE", 3)

    assert "".join(read_pieces(written(tmp_path / "a.txt", "a🦴bé🦴".encode()))) == "a🦴bé🦴"


def test_a_byte_order_mark_is_dropped(tmp_path):
    assert "".join(read_pieces(written(tmp_path / "a.txt", b"\xef\xbb\xbfhello"))) == "hello"


@pytest.mark.parametrize(
    ("data", "offset"),
    [(b"abc\0def", 3), (b"abcdef\xff", 6), ("abcé".encode("latin-1") + b"efg", 3), ("abcdé".encode()[:-1], 4)],
)
def test_binary_files_are_refused_with_the_offset(tmp_path, monkeypatch, data, offset):
    monkeypatch.setattr(text_files, "_PIECE", 2)

    with pytest.raises(UserError, match=rf"a\.txt is not a text file: byte {offset} "):
        list(read_pieces(written(tmp_path / "a.txt", data)))


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.zst"])
def test_what_is_not_compressed_as_its_ending_says_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="cannot decompress"):
        list(read_pieces(written(tmp_path / name, b"plain text")))


def test_a_cut_off_gzip_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="cut off"):
        list(read_pieces(written(tmp_path / "a.txt.gz", gzip.compress(b"hello" * 1000)[:-10])))


@given(text=unicode_text, piece=st.integers(1, 9))
def test_lines_are_those_of_split_with_their_ends(tmp_path_factory, text, piece):
    path = written(tmp_path_factory.getbasetemp() / "lines.txt", text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_files, "_PIECE", piece)
        lines = list(read_lines(path))

    assert "".join(lines) == text
    assert all(line.endswith("\n") for line in lines[:-1])
    assert not any("\n" in line[:-1] for line in lines)


def test_a_text_file_is_one_document_that_splits_by_its_text(tmp_path):
    (document,) = read_text_documents(written(tmp_path / "a.md", b"# Title\n"))

    assert document.text == document.split_key == "# Title\n"
    assert document.name == str(tmp_path / "a.md")


@given(st.lists(st.sampled_from(["word ", "line\n", "paragraph\n\n"]), max_size=60).map("".join))
def test_long_files_become_documents_that_join_to_the_file(tmp_path_factory, text):
    path = written(tmp_path_factory.getbasetemp() / "long.txt", text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_files, "_LONGEST_DOCUMENT", 40)
        parts = [document.text for document in read_text_documents(path)]

    assert "".join(parts) == text
    assert all(0 < len(part) <= 41 for part in parts)


def test_long_files_are_cut_at_blank_lines_or_else_line_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "_LONGEST_DOCUMENT", 20)
    path = written(tmp_path / "book.txt", b"one two three\n\nfour five\nsix\nseven eight")

    assert [document.text for document in read_text_documents(path)] == [
        "one two three\n\n",
        "four five\nsix\n",
        "seven eight",
    ]


@pytest.mark.parametrize(
    ("name", "kind"), [("a.txt", ".txt"), ("b.JSONL.gz", ".jsonl"), ("c.tar.zst", ".tar"), ("d", "")]
)
def test_the_format_is_the_ending_before_the_compression(name, kind):
    assert format_of(Path(name)) == kind
