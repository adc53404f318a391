"""What the gguf package writes is read here with the same values, and the tensors stay in the mapped file."""

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from vesalius.core.errors import UserError
from vesalius.core.files import cache_dir
from vesalius.hub.gguf.reader import read_gguf
from vesalius.kernels.block_formats import FORMATS

SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
VALUES = {
    "uint8": 255,
    "int8": -128,
    "uint16": 65535,
    "int16": -32768,
    "uint32": 2**32 - 1,
    "int32": -(2**31),
    "uint64": 2**64 - 1,
    "int64": -(2**63),
    "float32": 0.5,
    "float64": 0.1,
    "bool": True,
    "string": "naïve 🙂\nline\0",
}
ARRAYS = {
    "words": ["", "a", "Ġthe", "naïve 🙂"],
    "long": ["x" * 255, "y" * 256, "z" * 70000],
    "with nul": ["a\0b", "\0"],
    "scores": [0.5, -1.5],
    "types": [1, 2, -3],
    "switches": [True, False],
}


def written(path: Path, alignment: int | None = None) -> Path:
    """A file with a value and a tensor of every kind, by the gguf package."""
    writer = gguf.GGUFWriter(path, "llama")
    if alignment:
        writer.add_custom_alignment(alignment)
    for kind, value in VALUES.items():
        getattr(writer, f"add_{kind}")(f"test.{kind}", value)
    for name, items in ARRAYS.items():
        writer.add_array(f"test.{name}", items)
    generator = np.random.default_rng(0)
    for name, kind in FORMATS.items():
        raw_type = gguf.GGMLQuantizationType[name.upper()]
        row = 3 * 256 // kind.block_size * kind.block_bytes
        writer.add_tensor(f"{name}.weight", generator.integers(0, 256, (5, row), np.uint8), raw_dtype=raw_type)
    writer.add_tensor("cube", generator.standard_normal((2, 3, 4, 5)).astype(np.float32))
    writer.add_tensor("bias", np.arange(7, dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def assert_equals_gguf_reader(path: Path) -> None:
    theirs, ours = gguf.GGUFReader(path), read_gguf(path)
    fields = {name: field.contents() for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert ours.metadata == fields
    assert list(ours.metadata) == list(fields)
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        read = ours.tensors[tensor.name]
        assert read.format == tensor.tensor_type.name.lower()
        assert read.shape == tuple(reversed(tensor.shape.tolist()))
        np.testing.assert_array_equal(read.blocks.numpy(), np.ascontiguousarray(tensor.data).view(np.uint8))


@pytest.mark.parametrize("alignment", [None, 1, 8, 64, 4096])
def test_every_kind_of_value_and_tensor_is_read_as_the_gguf_package_reads_it(tmp_path, alignment):
    assert_equals_gguf_reader(written(tmp_path / "model.gguf", alignment))


def test_values_have_pythons_types(tmp_path):
    metadata = read_gguf(written(tmp_path / "model.gguf")).metadata
    for kind, value in VALUES.items():
        assert type(metadata[f"test.{kind}"]) is type(value)
        assert metadata[f"test.{kind}"] == value
    for name, items in ARRAYS.items():
        assert [type(item) for item in metadata[f"test.{name}"]] == [type(item) for item in items]


def test_tensors_unpack_to_the_values_of_the_gguf_package(tmp_path):
    path = written(tmp_path / "model.gguf", alignment=1)  # values at odd places
    ours = read_gguf(path).tensors
    for tensor in gguf.GGUFReader(path).tensors:
        with np.errstate(all="ignore"):
            expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(ours[tensor.name].dequantise().numpy(), expected)


def test_version_2_is_read(tmp_path):
    path = written(tmp_path / "model.gguf")
    content = bytearray(path.read_bytes())
    content[4:8] = struct.pack("<I", 2)
    path.write_bytes(content)
    assert_equals_gguf_reader(path)


def test_an_empty_array_is_an_empty_list(tmp_path):
    path = tmp_path / "model.gguf"
    key = struct.pack("<Q", 1) + b"k"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + key + struct.pack("<IIQ", 9, 8, 0))
    assert read_gguf(path).metadata == {"k": []}


def test_writing_to_a_block_leaves_the_file_as_it_is(tmp_path):
    path = written(tmp_path / "model.gguf")
    before = path.read_bytes()
    read_gguf(path).tensors["cube"].blocks.fill_(7)
    assert path.read_bytes() == before


def test_tensors_outlive_the_file_they_were_read_from(tmp_path):
    path = written(tmp_path / "model.gguf")
    tensor = read_gguf(path).tensors["bias"]
    path.unlink()
    assert tensor.dequantise().tolist() == list(range(7))


def test_tensors_are_pages_of_one_mapping(tmp_path):
    tensors = read_gguf(written(tmp_path / "model.gguf")).tensors.values()
    assert len({tensor.blocks.untyped_storage().data_ptr() for tensor in tensors}) == 1


def test_what_is_no_file_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nothing.gguf"):
        with pytest.raises(UserError, match="no GGUF file at"):
            read_gguf(path)


def test_a_file_that_cannot_be_opened_says_why(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("unable to open file </model.gguf> in read-only mode: Permission denied (13)\nmore")

    path = written(tmp_path / "model.gguf")
    monkeypatch.setattr(torch, "from_file", refuse)
    with pytest.raises(UserError, match=r"cannot be read \(unable to open.*\(13\)\): check its permissions$"):
        read_gguf(path)


@pytest.mark.slow
def test_a_real_model_is_read_as_the_gguf_package_reads_it():
    found = next(iter(sorted(cache_dir().rglob(SMOLLM2))), None)
    if found is None:
        pytest.skip("smollm2-135m-instruct is not in the cache: vesalius pull smollm2-135m-instruct")
    theirs, ours = gguf.GGUFReader(found), read_gguf(found)
    assert ours.metadata["tokenizer.ggml.tokens"] == theirs.fields["tokenizer.ggml.tokens"].contents()
    assert ours.metadata["tokenizer.ggml.merges"] == theirs.fields["tokenizer.ggml.merges"].contents()
    small = {key: value for key, value in ours.metadata.items() if not isinstance(value, list)}
    assert small == {key: theirs.fields[key].contents() for key in small}
    assert len(ours.metadata) == sum(not name.startswith("GGUF.") for name in theirs.fields)
    assert len(ours.tensors) == len(theirs.tensors)
    for tensor in theirs.tensors:
        np.testing.assert_array_equal(
            ours.tensors[tensor.name].blocks.numpy().reshape(-1), tensor.data.view(np.uint8).reshape(-1)
        )
    layer = next(tensor for tensor in theirs.tensors if tensor.name == "blk.7.attn_q.weight")
    expected = gguf.quants.dequantize(layer.data, layer.tensor_type)
    np.testing.assert_array_equal(ours.tensors[layer.name].dequantise().numpy(), expected)
