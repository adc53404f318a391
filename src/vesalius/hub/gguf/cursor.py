"""Reading a header from bytes that anyone may have written: every length is compared with what is left of the file
before it is used, so that no number in the file can cause a large allocation, a long loop or a read outside.
"""

import struct
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from vesalius.core.errors import UserError
from vesalius.hub.gguf.layout import ARRAY, SCALARS, STRING

LENGTH = struct.Struct("<Q")


class Cursor:
    """A place in the bytes of a file that moves forward as values are taken. UserError where they end too early."""

    def __init__(self, path: Path, data: np.ndarray) -> None:
        self.path = path
        self.at = 0
        self._bytes = data  # uint8 (file size,)
        self._view = data.data

    def refuse(self, problem: str) -> NoReturn:
        """UserError in one line, whatever names a hostile file puts into `problem`."""
        raise UserError(f"{self.path} is no sound GGUF file: {problem}; it is cut off or damaged, fetch it again")

    def take(self, count: int, what: str) -> memoryview:
        """The next `count` bytes."""
        left = len(self._view) - self.at
        if count > left:
            self.refuse(f"{what} needs {count} bytes at byte {self.at}, {left} are left")
        self.at += count
        return self._view[self.at - count : self.at]

    def count(self, least_bytes: int, what: str) -> int:
        """A number of things that take at least `least_bytes` each, and so must fit into the rest of the file."""
        number = self.scalar("<u8", f"the number of {what}")
        left = len(self._view) - self.at
        if number * least_bytes > left:
            self.refuse(f"it promises {number} {what}, {left} bytes are left for them")
        return number

    def scalar(self, dtype: str, what: str) -> Any:
        """One number or bool."""
        return self.scalars(dtype, 1, what)[0]

    def scalars(self, dtype: str, count: int, what: str) -> list[Any]:
        """`count` numbers or bools as Python's own."""
        raw = self.take(np.dtype(dtype).itemsize * count, what)
        if dtype == "?":  # any byte may stand there; a bool array made of it would not be one
            return (np.frombuffer(raw, "u1") != 0).tolist()
        return np.frombuffer(raw, dtype).tolist()

    def string(self, what: str) -> str:
        raw = self.take(self.count(1, f"bytes in {what}"), what)
        try:
            return str(raw, "utf-8")
        except UnicodeDecodeError as error:
            self.refuse(f"{what} is not UTF-8 ({error.reason} at its byte {error.start})")

    def strings(self, count: int, what: str) -> list[str]:
        short = self._short_strings(count)
        return [self.string(what) for _ in range(count)] if short is None else short

    def value(self, what: str) -> Any:
        """A value after its type: bool, int, float, str, or a list of one of these."""
        kind = self.scalar("<u4", f"the type of {what}")
        if kind != ARRAY:
            return self._values(kind, 1, what)[0]
        kind = self.scalar("<u4", f"the type of {what}")
        if kind == ARRAY:
            self.refuse(f"{what} is an array of arrays, which no model needs")
        return self._values(kind, self.count(self._least_bytes(kind), f"elements of {what}"), what)

    def _values(self, kind: int, count: int, what: str) -> list[Any]:
        if kind == STRING:
            return self.strings(count, what)
        if kind not in SCALARS:
            self.refuse(f"{what} has the unknown type {kind}")
        return self.scalars(SCALARS[kind], count, what)

    def _least_bytes(self, kind: int) -> int:
        return np.dtype(SCALARS[kind]).itemsize if kind in SCALARS else LENGTH.size

    def _short_strings(self, count: int) -> list[str] | None:
        """The next `count` strings if each is shorter than 256 bytes, none has a NUL and all is sound; else None.

        Vocabularies are such, and have 50 to 250 thousand of them: finding the places in a loop that only adds one
        byte at a time, and decoding all of them as one text, takes half as long as reading one after the other.
        """
        places, at, view, end = [], self.at, self._view, len(self._view)
        for _ in range(count):
            if at + LENGTH.size > end:
                return None
            places.append(at)
            at += LENGTH.size + view[at]
        if at > end or not count:
            return None
        starts = np.array(places) - self.at
        part = self._bytes[self.at : at].copy()
        kept = np.ones(len(part), dtype=bool)
        for byte in range(1, LENGTH.size):
            if part[starts + byte].any():
                return None
            kept[starts + byte] = False
        part[starts] = 0  # where a length stood, a NUL now parts the strings
        text = part[kept].tobytes()
        if text.count(0) != count:
            return None
        try:
            found = text.decode("utf-8").split("\0")[1:]
        except UnicodeDecodeError:
            return None
        self.at = at
        return found
