"""From what a person names to documents: `read_documents(["corpus:python", "books/*.txt", "notes.jsonl#body"])`.

    corpus:python                             the standard library of the running interpreter
    PATH or GLOB                              .txt .md .py and any other text; .jsonl .json .csv .parquet;
                                              all but .parquet also as .gz or .zst
    PATH#FIELD                                which field of the rows is the text
    hf:owner/name[/folder][:split[:column]]   a dataset of the Hugging Face hub

Without a field, the text of a row is its `text`, else its `content`, else its only string. A row is a document, and so
is a text file (a very long one is several, see text_files.py). Rows without any text are passed over.
"""

import glob
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vesalius.core.errors import UserError, nearest
from vesalius.data.document import Document
from vesalius.data.hub_dataset import HubDataset
from vesalius.data.python_corpus import python_documents
from vesalius.data.rows import ROW_FORMATS, Row, read_rows
from vesalius.data.text_files import format_of, read_text_documents

__all__ = ["Document", "FileSource", "find_files", "read_documents"]

_CORPORA: dict[str, Callable[[], Iterator[Document]]] = {"python": python_documents}
_TEXT_FIELDS = ("text", "content")


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file, and the field of its rows that was asked for."""

    path: Path
    field: str | None = None


def read_documents(specs: Sequence[str]) -> Iterator[Document]:
    """The documents of all specs in order, as a stream: memory does not grow with the files.

    Names are checked at once: UserError where a file, a glob's match or a corpus does not exist. While reading:
    UserError where a file is not what its ending says, a row has no text, or nothing was found at all.
    """
    streams = [_open_spec(spec) for spec in specs]
    return _all_of(streams, specs)


def find_files(spec: str) -> list[FileSource]:
    """The files that `PATH`, `GLOB` or either with `#FIELD` names, sorted. UserError where there are none."""
    if Path(spec).is_file():
        return [FileSource(Path(spec))]
    pattern, _, field = spec.partition("#")
    path = Path(pattern).expanduser()
    if path.is_dir():
        raise UserError(f"{pattern} is a directory, expected files: name them, as in '{path / '**' / '*.txt'}'")
    matches = glob.iglob(str(path), recursive=True)  # noqa: PTH207  Path.glob would go into .git and .venv
    found = sorted(match for match in map(Path, matches) if match.is_file())
    if not found:
        kind = "no file matches" if glob.has_magic(pattern) else "no such file:"
        raise UserError(
            f"{kind} {pattern} (looked from {Path.cwd()}); expected a path, a glob, corpus:python or hf:owner/name"
        )
    return [FileSource(path, field or None) for path in found]


def _open_spec(spec: str) -> Iterator[Document]:
    scheme, _, name = spec.partition(":")
    if scheme == "corpus":
        if name not in _CORPORA:
            raise UserError(f"unknown corpus {spec!r}, {nearest(spec, [f'corpus:{known}' for known in _CORPORA])}")
        return _CORPORA[name]()
    if scheme == "hf":
        dataset = HubDataset.parse(spec)
        return _read_files(FileSource(path, dataset.column) for path in dataset.files())
    return _read_files(find_files(spec))


def _all_of(streams: Iterable[Iterator[Document]], specs: Sequence[str]) -> Iterator[Document]:
    empty = True
    for stream in streams:
        for document in stream:
            if document.text and not document.text.isspace():
                empty = False
                yield document
    if empty:
        raise UserError(
            f"the corpus is empty: {', '.join(specs) or 'no text was named'}; "
            "expected at least one text, such as corpus:python"
        )


def _read_files(sources: Iterable[FileSource]) -> Iterator[Document]:
    for source in sources:
        if format_of(source.path) in ROW_FORMATS:
            wanted = (source.field,) if source.field else _TEXT_FIELDS
            for row in read_rows(source.path, wanted):
                text = _text_of(row, source.field)
                yield Document(text, row.place, split_key=text)
        else:
            yield from read_text_documents(source.path)


def _text_of(row: Row, field: str | None) -> str:
    """The row's text, "" where it is null. UserError where no field is the text, or it is no text."""
    name = field or next((name for name in _TEXT_FIELDS if name in row.values), None) or _only_string(row)
    if name not in row.values:
        raise UserError(f"{row.place} has no field {name!r}, {nearest(name, map(str, row.values))}")
    text = row.values[name]
    if text is not None and not isinstance(text, str):
        raise UserError(
            f"{row.place}: field {name!r} is {type(text).__name__}, expected a string: name the text as PATH#FIELD"
        )
    return _without_lone_surrogates(text or "")


def _only_string(row: Row) -> str:
    strings = [name for name, value in row.values.items() if isinstance(value, str)]
    if len(strings) != 1:
        raise UserError(
            f"{row.place} has no field 'text' or 'content': name one as PATH#FIELD "
            f"(fields: {', '.join(map(str, row.values))})"
        )
    return strings[0]


def _without_lone_surrogates(text: str) -> str:
    """JSON can write half of a surrogate pair, which no UTF-8 can hold; such a half becomes "?"."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
