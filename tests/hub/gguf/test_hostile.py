"""Files that anyone may have written: one clear line, no other error, no large allocation, whatever the numbers say."""

import struct
import tracemalloc
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vesalius.core.errors import UserError
from vesalius.hub.gguf.reader import GGUFFile, read_gguf
from vesalius.hub.gguf.writer import write_gguf
from vesalius.kernels.block_formats import BlockTensor

MOST_BYTES = 2_000_000
"""What reading any of these small files may allocate."""

EXTREMES = [0, 1, 7, 31, 33, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 10**9, 2**53, 2**63 - 1, 2**63, 2**64 - 1]


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def entry(name: str = "w", shape: tuple[int, ...] = (32,), kind: int = 8, offset: int = 0) -> bytes:
    sizes = struct.pack(f"<{len(shape)}Q", *shape)
    return string(name) + struct.pack("<I", len(shape)) + sizes + struct.pack("<IQ", kind, offset)


def key(name: str, kind: int, value: bytes) -> bytes:
    return string(name) + struct.pack("<I", kind) + value


def file(
    entries: list[bytes],
    keys: list[bytes] | None = None,
    data: int = 34,
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    promised: tuple[int, int] | None = None,
) -> bytes:
    """A file of these parts with `data` bytes of tensors; `promised` are the numbers of tensors and keys it claims."""
    keys = keys or []
    tensors, values = promised or (len(entries), len(keys))
    header = magic + struct.pack("<IQQ", version, tensors, values) + b"".join(keys) + b"".join(entries)
    return header + bytes(-len(header) % 32) + bytes(data)


def read_within_limits(path: Path) -> GGUFFile:
    tracemalloc.start()
    try:
        return read_gguf(path)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MOST_BYTES


HOSTILE = {
    "empty file": (b"", "has 0 bytes"),
    "only the magic": (b"GGUF", "has 4 bytes"),
    "another format": (file([], magic=b"PK\x03\x04"), r"begins with b'PK\\x03\\x04', expected b'GGUF'"),
    "version 1": (file([], version=1), "is GGUF version 1, expected 2 or 3"),
    "version 0": (file([], version=0), "is GGUF version 0, expected 2 or 3"),
    "a later version": (file([], version=4), "is GGUF version 4"),
    "big-endian": (file([], version=3 << 24), "big-endian GGUF file"),
    "10^9 tensors": (file([], promised=(10**9, 0)), "promises 1000000000 tensors, 50 bytes are left"),
    "10^9 keys": (file([], promised=(0, 10**9)), "promises 1000000000 keys"),
    "2^64 - 1 keys": (file([], promised=(0, 2**64 - 1)), "promises 18446744073709551615 keys"),
    "one key too few": (file([], promised=(0, 2)), "type 0|twice"),
    "long key": (file([], [struct.pack("<Q", 2**63)]), "promises 9223372036854775808 bytes in the name of a key"),
    "long string": (file([], [key("k", 8, struct.pack("<Q", 2**40))]), "promises 1099511627776 bytes in 'k'"),
    "long array": (file([], [key("k", 9, struct.pack("<IQ", 6, 2**62))]), "4611686018427387904 elements of 'k'"),
    "many strings": (file([], [key("k", 9, struct.pack("<IQ", 8, 10**9))]), "promises 1000000000 elements of 'k'"),
    "strings that end too early": (
        file([], [key("k", 9, struct.pack("<IQ", 8, 3) + string("a") + struct.pack("<Q", 10**6))]),
        "promises 1000000 bytes in 'k'",
    ),
    "nested array": (file([], [key("k", 9, struct.pack("<IQ", 9, 1))]), "'k' is an array of arrays"),
    "unknown value type": (file([], [key("k", 13, b"")]), "'k' has the unknown type 13"),
    "unknown array type": (file([], [key("k", 9, struct.pack("<IQ", 77, 1))]), "'k' has the unknown type 77"),
    "key twice": (file([], [key("k", 0, b"\1")] * 2), "the key 'k' twice"),
    "key not UTF-8": (file([], [string(b"\xff") + struct.pack("<IB", 0, 1)]), "the name of a key is not UTF-8"),
    "value not UTF-8": (file([], [key("k", 8, string(b"a\xff"))]), "'k' is not UTF-8 .* at its byte 1"),
    "item not UTF-8": (file([], [key("k", 9, struct.pack("<IQ", 8, 1) + string(b"\xc3"))]), "'k' is not UTF-8"),
    "lines in a name": (file([], [key("a\nb\x1b[2J", 13, b"")]), r"'a\\nb\\x1b\[2J' has the unknown type 13"),
    "long name in a message": (file([], [key("k" * 5000, 13, b"")]), r"'k{70,80}\.\.\. has the unknown type"),
    "no dimensions": (file([entry(shape=())]), "has 0 dimensions"),
    "10^9 dimensions": (file([string("w") + struct.pack("<I", 10**9) + bytes(40)]), "has 1000000000 dimensions"),
    "empty dimension": (file([entry(shape=(32, 0))]), r"is empty, its shape is \(0, 32\)"),
    "dimensions that overflow": (file([entry(shape=(2**32, 2**32, 2**32, 2**32))]), "takes the data up to byte"),
    "dimensions that overflow to 0": (file([entry(shape=(2**62, 4))]), "takes the data up to byte"),
    "unknown format": (file([entry(kind=99)]), "tensor 'w' has the unknown format 99"),
    "removed format": (file([entry(kind=4)]), "tensor 'w' has the unknown format 4"),
    "format not read here": (file([entry(kind=40)]), "keeps tensor 'w' as nvfp4, which is not read here.*q4_k"),
    "half a block": (file([entry(shape=(33,))]), "rows of 33 values, q8_0 needs a multiple of 32"),
    "misaligned offset": (file([entry(offset=16)], data=128), "begins at 16, .* multiple of the alignment 32"),
    "offset outside": (file([entry(offset=2**63)]), "up to byte 9223372036854775842, which ends at byte 34"),
    "one byte short": (file([entry()], data=33), "up to byte 34, which ends at byte 33"),
    "header alone": (file([entry()], data=0)[:-7], "up to byte 34, which ends at byte 0"),
    "shared bytes": (file([entry("a"), entry("b")]), "tensor 'b' shares bytes"),
    "tensor twice": (file([entry(), entry(offset=64)], data=128), "the tensor 'w' twice"),
    "alignment 0": (file([entry()], [key("general.alignment", 4, bytes(4))]), "is 0, expected a power of two"),
    "alignment 3": (file([entry()], [key("general.alignment", 4, b"\3\0\0\0")]), "is 3, expected a power of two"),
    "alignment as text": (file([entry()], [key("general.alignment", 8, string("32"))]), "is '32', expected a power"),
    "alignment beyond the file": (
        file([entry()], [key("general.alignment", 10, struct.pack("<Q", 2**63))]),
        "which ends at byte 0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_in_one_line(tmp_path, case):
    content, message = HOSTILE[case]
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as refused:
        read_within_limits(path)
    assert len(str(refused.value).splitlines()) == 1
    assert len(str(refused.value)) < 400 + len(str(path))


def test_the_parts_that_hostile_files_are_made_of_are_sound(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(file([entry("a"), entry("b", offset=64)], [key("k", 0, b"\5")], data=98))
    read = read_gguf(path)
    assert read.metadata == {"k": 5}
    assert [tensor.shape for tensor in read.tensors.values()] == [(32,), (32,)]


def test_a_million_keys_are_too_many(tmp_path):
    path = tmp_path / "model.gguf"
    with path.open("wb") as stream:
        stream.write(b"GGUF" + struct.pack("<IQQ", 3, 0, 2_000_000))
        stream.truncate(30_000_000)  # a hole: takes no place on the disk
    with pytest.raises(UserError, match="promises 2000000 keys, at most 1048576 are read"):
        read_within_limits(path)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small file with most of what a header can hold."""
    path = tmp_path_factory.mktemp("gguf") / "sound.gguf"
    metadata = {
        "general.architecture": "llama",
        "general.alignment": 32,
        "llama.block_count": 2,
        "eps": 1e-5,
        "add_bos": True,
        "tokens": [f"token {i}" for i in range(20)],
        "types": [1] * 20,
        "scores": [0.5] * 20,
    }
    tensors = {name: BlockTensor.quantise(torch.ones(2, 64), name) for name in ("f32", "f16", "q8_0", "q4_0", "q4_1")}
    write_gguf(path, metadata, tensors)
    return path.read_bytes()


@st.composite
def mutations(draw: st.DrawFn) -> list[tuple[str, float, int]]:
    """Changes of a file: what, where (as a fraction of the header) and with which number."""
    kinds = st.sampled_from(["byte", "four", "eight", "cut", "drop", "double"])
    values = st.one_of(st.sampled_from(EXTREMES), st.integers(0, 300))
    return draw(st.lists(st.tuples(kinds, st.floats(0, 1), values), min_size=1, max_size=4))


def mutated(content: bytes, changes: list[tuple[str, float, int]]) -> bytes:
    for kind, where, value in changes:
        at = int(where * (len(content) - 1)) if content else 0
        length = value % 40
        content = {
            "byte": lambda c, at=at, value=value: c[:at] + bytes([value & 255]) + c[at + 1 :],
            "four": lambda c, at=at, value=value: c[:at] + struct.pack("<I", value & 0xFFFFFFFF) + c[at + 4 :],
            "eight": lambda c, at=at, value=value: c[:at] + struct.pack("<Q", value) + c[at + 8 :],
            "cut": lambda c, at=at: c[:at],
            "drop": lambda c, at=at, length=length: c[:at] + c[at + length :],
            "double": lambda c, at=at, length=length: c[: at + length] + c[at:],
        }[kind](content)
    return content


def assert_read_or_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        read = read_within_limits(path)
    except UserError as error:
        lines = str(error).splitlines()
    else:
        lines = ["sound"]
        assert sum(tensor.nbytes for tensor in read.tensors.values()) <= len(content)
        for tensor in read.tensors.values():
            assert tensor.dequantise().shape == tensor.shape
    assert len(lines) == 1


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=mutations())
def test_mutated_files_are_read_or_refused(tmp_path, sound, changes):
    assert_read_or_refused(tmp_path / "model.gguf", mutated(sound, changes))


@pytest.mark.slow
@settings(max_examples=5000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=mutations())
def test_many_mutated_files_are_read_or_refused(tmp_path, sound, changes):
    assert_read_or_refused(tmp_path / "model.gguf", mutated(sound, changes))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rest=st.binary(max_size=200), tensors=st.sampled_from(EXTREMES), keys=st.sampled_from(EXTREMES))
def test_random_bytes_after_the_magic_are_read_or_refused(tmp_path, rest, tensors, keys):
    assert_read_or_refused(tmp_path / "model.gguf", b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + rest)


def test_every_cut_of_a_file_is_refused_or_was_only_padding(tmp_path, sound):
    path = tmp_path / "model.gguf"
    path.write_bytes(sound)
    last = max(read_gguf(path).tensors.values(), key=lambda tensor: tensor.blocks.storage_offset())
    end = last.blocks.storage_offset() + last.nbytes
    for size in [*range(0, end, 7), end - 1]:
        path.write_bytes(sound[:size])
        with pytest.raises(UserError):
            read_gguf(path)
    path.write_bytes(sound[:end])
    assert read_gguf(path).tensors.keys()
