"""What is written here is read by the gguf package and by ourselves with the same values."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vesalius.core.errors import UserError, VesaliusError
from vesalius.hub.gguf.reader import read_gguf
from vesalius.hub.gguf.writer import PlannedTensor, write_gguf
from vesalius.kernels.block_formats import FORMATS, BlockTensor

TENSOR = {"w": BlockTensor.quantise(torch.ones(2, 32), "q8_0")}


def random_tensor(format: str, *shape: int, seed: int = 0) -> BlockTensor:
    generator = torch.Generator().manual_seed(seed)
    size = (*shape[:-1], FORMATS[format].row_bytes(shape[-1]))
    return BlockTensor(format, shape, torch.randint(256, size, generator=generator, dtype=torch.uint8))


def values_by_gguf(path: Path) -> dict[str, Any]:
    fields = gguf.GGUFReader(path).fields
    return {name: field.contents() for name, field in fields.items() if not name.startswith("GGUF.")}


def types_by_gguf(path: Path) -> dict[str, list[str]]:
    return {name: [kind.name for kind in field.types] for name, field in gguf.GGUFReader(path).fields.items()}


@pytest.mark.parametrize("alignment", [32, 8, 256])
def test_the_gguf_package_reads_every_format(tmp_path, alignment):
    tensors = {f"{name}.weight": random_tensor(name, 3, 512) for name in FORMATS}
    tensors |= {"bias": random_tensor("f32", 7), "cube": random_tensor("f16", 2, 3, 4, 5)}
    write_gguf(tmp_path / "model.gguf", {"general.alignment": alignment}, tensors)
    read = gguf.GGUFReader(tmp_path / "model.gguf")
    assert read.alignment == alignment
    assert [tensor.name for tensor in read.tensors] == list(tensors)
    for tensor in read.tensors:
        ours = tensors[tensor.name]
        assert tensor.tensor_type.name.lower() == ours.format
        assert tuple(reversed(tensor.shape.tolist())) == ours.shape
        assert tensor.data_offset % alignment == 0
        np.testing.assert_array_equal(np.ascontiguousarray(tensor.data).view(np.uint8), ours.blocks.numpy())


@pytest.mark.parametrize(
    ("value", "types"),
    [
        (5, ["UINT32"]),
        (-5, ["INT32"]),
        (2**40, ["UINT64"]),
        (-(2**40), ["INT64"]),
        (0.5, ["FLOAT32"]),
        (1e300, ["FLOAT64"]),
        (True, ["BOOL"]),
        ("naïve 🙂\0", ["STRING"]),
        ([1, -2], ["ARRAY", "INT32"]),
        ([2**31], ["ARRAY", "INT64"]),
        ([2**63], ["ARRAY", "UINT64"]),
        ([0.5, 2], ["ARRAY", "FLOAT32"]),
        ((False, True), ["ARRAY", "BOOL"]),
        (["a", "", "é"], ["ARRAY", "STRING"]),
        (np.uint8(7), ["UINT8"]),
        (np.float64(0.1), ["FLOAT64"]),
        (np.array([1, 2], ">u2"), ["ARRAY", "UINT16"]),
        (np.array([0.1]), ["ARRAY", "FLOAT64"]),
    ],
)
def test_values_are_written_in_the_type_that_others_expect(tmp_path, value, types):
    write_gguf(tmp_path / "model.gguf", {"key": value}, TENSOR)
    assert types_by_gguf(tmp_path / "model.gguf")["key"] == types
    expected = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
    expected = list(expected) if isinstance(expected, tuple) else expected
    assert values_by_gguf(tmp_path / "model.gguf")["key"] == expected
    assert read_gguf(tmp_path / "model.gguf").metadata["key"] == expected


def test_a_float_is_rounded_to_the_nearest_float32(tmp_path):
    write_gguf(tmp_path / "model.gguf", {"eps": 1e-5}, TENSOR)
    assert values_by_gguf(tmp_path / "model.gguf")["eps"] == float(np.float32(1e-5))


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
FLOAT = st.floats(width=32, allow_nan=False)
INT = st.integers(-(2**63), 2**64 - 1)
SMALL_INT = st.integers(-(2**63), 2**63 - 1)
VALUE = st.one_of(
    TEXT, FLOAT, INT, st.booleans(), *(st.lists(kind, max_size=20) for kind in (TEXT, FLOAT, SMALL_INT, st.booleans()))
)  # fmt: skip
TENSOR_SHAPES = st.lists(st.integers(1, 3), max_size=3)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    metadata=st.dictionaries(TEXT, VALUE, max_size=6),
    tensors=st.dictionaries(
        st.text("abc._0", min_size=1, max_size=20), st.tuples(st.sampled_from(list(FORMATS)), TENSOR_SHAPES), max_size=4
    ),
    alignment=st.sampled_from([None, 1, 16, 128]),
)
def test_what_is_written_is_what_is_read(tmp_path, metadata, tensors, alignment):
    metadata = {key: value for key, value in metadata.items() if key != "general.alignment"}
    if alignment is not None:
        metadata["general.alignment"] = alignment
    made = {
        name: random_tensor(format, *shape, 256, seed=i) for i, (name, (format, shape)) in enumerate(tensors.items())
    }
    path = tmp_path / "model.gguf"
    write_gguf(path, metadata, made)
    read = read_gguf(path)
    assert read.metadata == metadata
    assert list(read.metadata) == list(metadata)
    assert list(read.tensors) == list(made)
    for name, tensor in made.items():
        assert (read.tensors[name].format, read.tensors[name].shape) == (tensor.format, tensor.shape)
        assert torch.equal(read.tensors[name].blocks, tensor.blocks)


def test_planned_tensors_are_made_one_after_the_other(tmp_path):
    alive: list[str] = []

    def planned(name: str) -> PlannedTensor:
        def make() -> BlockTensor:
            alive.append(name)
            return random_tensor("q4_0", 2, 64, seed=len(name))

        return PlannedTensor("q4_0", (2, 64), make)

    tensors = {name: planned(name) for name in ("a", "bb", "ccc")}
    write_gguf(tmp_path / "model.gguf", {}, tensors)
    assert alive == ["a", "bb", "ccc"]
    for name, tensor in read_gguf(tmp_path / "model.gguf").tensors.items():
        assert torch.equal(tensor.blocks, random_tensor("q4_0", 2, 64, seed=len(name)).blocks)


def test_a_tensor_that_is_not_as_planned_stops_the_writing(tmp_path):
    wrong = PlannedTensor("q4_0", (2, 64), lambda: random_tensor("q4_0", 2, 32))
    with pytest.raises(ValueError, match=r"planned as q4_0 \(2, 64\), got q4_0 \(2, 32\)"):
        write_gguf(tmp_path / "model.gguf", {}, {"w": wrong})
    assert list(tmp_path.iterdir()) == []


def test_rows_that_lie_apart_are_written_in_order(tmp_path):
    tensor = random_tensor("q8_0", 6, 64)
    picked = BlockTensor.of("q8_0", tensor.blocks[::2])
    write_gguf(tmp_path / "model.gguf", {}, {"w": picked})
    assert torch.equal(read_gguf(tmp_path / "model.gguf").tensors["w"].blocks, tensor.blocks[::2])


def test_a_file_may_be_rewritten_from_its_own_tensors(tmp_path):
    path = tmp_path / "model.gguf"
    write_gguf(path, {"k": 1}, {"w": random_tensor("q4_1", 4, 64)})
    read = read_gguf(path)
    write_gguf(path, read.metadata | {"k": 2}, read.tensors)
    assert read_gguf(path).metadata == {"k": 2}
    assert torch.equal(read_gguf(path).tensors["w"].blocks, random_tensor("q4_1", 4, 64).blocks)


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path):
    def full() -> BlockTensor:
        raise OSError(28, "No space left on device")

    path = tmp_path / "model.gguf"
    write_gguf(path, {}, TENSOR)
    before = path.read_bytes()
    with pytest.raises(VesaliusError, match="no space left"):
        write_gguf(path, {}, {"w": PlannedTensor("q4_0", (2, 64), full)})
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.gguf"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "holds NoneType"),
        ({"a": 1}, "holds dict"),
        ([1, "a"], "holds int, str"),
        ([True, 1], "holds bool, int"),
        ([[1], [2]], "holds list"),
        (2**64, "integers from 18446744073709551616"),
        ([-1, 2**63], "integers from -1 to 9223372036854775808"),
        (np.zeros((2, 2)), "2-dimensional float64"),
        (np.zeros(2, np.float16), "1-dimensional float16"),
        (np.array(["a"]), "1-dimensional <U1"),
        ("\ud800", "is not valid Unicode"),
    ],
)
def test_values_that_a_file_cannot_hold_are_refused_by_their_key(tmp_path, value, message):
    with pytest.raises(UserError, match=f"key.*{message}"):
        write_gguf(tmp_path / "model.gguf", {"key": value}, TENSOR)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("w" * 64, TENSOR["w"], "longer than 63 bytes"),
        ("w", random_tensor("f32", 1, 1, 1, 1, 2), "1 to 4 dimensions"),
        ("w", random_tensor("f32", 0, 2), "none of 0"),
    ],
)
def test_tensors_that_a_file_cannot_hold_are_refused(tmp_path, name, tensor, message):
    with pytest.raises(UserError, match=message):
        write_gguf(tmp_path / "model.gguf", {}, {name: tensor})


@pytest.mark.parametrize("alignment", [0, 3, -8, "32", True])
def test_an_alignment_that_is_no_power_of_two_is_refused(tmp_path, alignment):
    with pytest.raises(UserError, match=r"general\.alignment must be a power of two"):
        write_gguf(tmp_path / "model.gguf", {"general.alignment": alignment}, TENSOR)
