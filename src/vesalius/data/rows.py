"""Files of rows: .jsonl, .json, .csv and .parquet, each row a dict, read as a stream whatever the file's size.

A .json file is an array of objects or objects one after another (many published .json files are JSON Lines). It is
parsed a value at a time, since `json.load` would need several times the file's size in memory.
"""

import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vesalius.core.errors import UserError
from vesalius.data.text_files import format_of, read_lines, read_pieces

ROW_FORMATS = (".parquet", ".jsonl", ".json", ".csv")

_LARGEST_VALUE = 64 * 2**20  # characters; a longer one is taken for broken JSON
_ROWS_AT_A_TIME = 64  # of parquet: rows may be whole books
_BETWEEN_VALUES = re.compile(r"[\s,\[\]]*")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Row:
    """One row's values, and the place that an error or a document's name should tell ("notes.jsonl:17")."""

    values: dict[str, Any]
    place: str


def read_rows(path: Path, wanted: Sequence[str] = ()) -> Iterator[Row]:
    """The rows of a file in order. Of Parquet only the `wanted` columns are read, where it has some of them.

    UserError, with file and line, where the file cannot be read, is not what its ending says or a row is no object.
    """
    match format_of(path):
        case ".parquet":
            yield from _read_parquet(path, wanted)
        case ".jsonl":
            yield from _read_json_lines(path)
        case ".json":
            yield from _read_json_values(path)
        case ".csv":
            yield from _read_csv(path)
        case other:
            raise UserError(
                f"{path} has the ending {other!r}, expected one of {', '.join(ROW_FORMATS)} (also with .gz or .zst)"
            )


def _read_json_lines(path: Path) -> Iterator[Row]:
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            place = f"{path}:{number}"
            try:
                value = json.loads(line)
            except ValueError as error:
                raise UserError(f"{place} is not valid JSON ({error}): repair or remove the line") from error
            yield _row(value, place)


def _read_json_values(path: Path) -> Iterator[Row]:
    pieces = read_pieces(path)
    buffer, start, line, depth = "", 0, 1, 0
    while True:
        between = _BETWEEN_VALUES.match(buffer, start)
        assert between is not None  # the pattern matches the empty string too
        line += between[0].count("\n")
        depth += between[0].count("[") - between[0].count("]")
        start = between.end()
        try:
            value, end = _DECODER.raw_decode(buffer, start)
        except ValueError as error:  # broken, or cut by the end of the buffer: as much again may complete it
            more = _take(pieces, len(buffer) - start) if len(buffer) - start < _LARGEST_VALUE else ""
            if more:
                buffer, start = buffer[start:] + more, 0
                continue
            if start == len(buffer) and depth == 0:
                return
            raise UserError(f"{path}:{line} is not valid JSON ({error}): repair it, it may be cut off") from error
        yield _row(value, f"{path}:{line}")
        line += buffer.count("\n", start, end)
        start = end


def _take(pieces: Iterator[str], characters: int) -> str:
    """Pieces of at least so many characters together, and one at least; "" at the end of the file."""
    taken: list[str] = []
    while sum(map(len, taken)) < max(characters, 1) and (piece := next(pieces, None)) is not None:
        taken.append(piece)
    return "".join(taken)


def _read_csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(
        2**31 - 1
    )  # for the whole process, the module has no other way; its default refuses long texts
    reader = csv.DictReader(read_lines(path), strict=True)
    try:
        yield from (Row(values, f"{path}:{reader.line_num}") for values in reader)
    except csv.Error as error:
        raise UserError(
            f"{path}:{reader.reader.line_num} is not valid CSV ({error}): repair or remove the line"
        ) from error


def _read_parquet(path: Path, wanted: Sequence[str]) -> Iterator[Row]:
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            columns = [name for name in wanted if name in file.schema_arrow.names] or None
            number = 0
            for batch in file.iter_batches(batch_size=_ROWS_AT_A_TIME, columns=columns):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(values, f"{path}:{number}")
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"cannot read {path} as Parquet ({str(error).splitlines()[0]}): check the file and its ending"
        ) from error


def _row(value: Any, place: str) -> Row:
    if not isinstance(value, dict):
        raise UserError(f'{place} holds {json.dumps(value)[:40]}, expected an object such as {{"text": "…"}}')
    return Row(value, place)
