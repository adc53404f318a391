"""Text files as Unicode, a piece at a time: plain, gzip or Zstandard; checked to be text while they are read.

A file that holds NUL bytes or is not UTF-8 is not text, and training on it would teach noise: the error names the byte.
Line ends are kept as they are written; a byte-order mark at the start is dropped.
"""

import codecs
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from vesalius.core.errors import UserError
from vesalius.data.document import Document

_PIECE = 2**20  # bytes read at a time
_LONGEST_DOCUMENT = 2**20  # characters


def format_of(path: Path) -> str:
    """The ending that tells the format, without that of the compression.

    >>> format_of(Path("notes.JSONL.gz"))
    '.jsonl'
    """
    inner = path.with_suffix("") if path.suffix.lower() in (".gz", ".zst") else path
    return inner.suffix.lower()


def read_pieces(path: Path) -> Iterator[str]:
    """The text of a file in pieces of about a megabyte. UserError where it cannot be read or is not text."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    for data in _read_bytes(path):
        waiting = len(decoder.getstate()[0])  # bytes of a character that the last piece cut
        try:
            piece = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise _not_text(path, offset - waiting + error.start, "is not UTF-8") from error
        if (nul := data.find(b"\0")) >= 0:
            raise _not_text(path, offset + nul, "is NUL")
        yield piece.removeprefix("\ufeff") if offset == 0 else piece
        offset += len(data)


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a file, each with its line end. UserError as in `read_pieces`."""
    rest = ""
    for piece in read_pieces(path):
        *lines, rest = (rest + piece).split("\n")
        yield from (line + "\n" for line in lines)
    if rest:
        yield rest


def read_text_documents(path: Path) -> Iterator[Document]:
    """The file as one document; more than a million characters as successive ones, cut at blank lines or line ends.

    UserError as in `read_pieces`.
    """
    waiting, part = "", 0
    for piece in read_pieces(path):
        waiting += piece
        while len(waiting) > _LONGEST_DOCUMENT:
            cut, part = _place_to_cut(waiting), part + 1
            yield _document(waiting[:cut], f"{path} (part {part})")
            waiting = waiting[cut:]
    if waiting:
        yield _document(waiting, f"{path} (part {part + 1})" if part else str(path))


def _document(text: str, name: str) -> Document:
    return Document(text, name, split_key=text)


def _place_to_cut(text: str) -> int:
    """The end of the last paragraph that fits, else of the last line, else the limit."""
    for mark in ("\n\n", "\n"):
        if (found := text.rfind(mark, _LONGEST_DOCUMENT // 2, _LONGEST_DOCUMENT)) >= 0:
            return found + len(mark)
    return _LONGEST_DOCUMENT


def _read_bytes(path: Path) -> Iterator[bytes]:
    """Pieces, then an empty one that says that the file has ended."""
    try:
        with _open(path) as file:
            while data := file.read(_PIECE):
                yield data
    except (gzip.BadGzipFile, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise UserError(
            f"cannot decompress {path} ({error}): it is cut off, or its ending names another format"
        ) from error
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): check the path and its permissions") from error
    yield b""


def _open(path: Path) -> BinaryIO:
    match path.suffix.lower():
        case ".gz":
            return cast(BinaryIO, gzip.open(path, "rb"))
        case ".zst":
            return cast(BinaryIO, zstandard.ZstdDecompressor().stream_reader(path.open("rb"), read_across_frames=True))
        case _:
            return path.open("rb")


def _not_text(path: Path, offset: int, reason: str) -> UserError:
    return UserError(
        f"{path} is not a text file: byte {offset} {reason}; expected UTF-8 text, so leave it out or convert it"
    )
