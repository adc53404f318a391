"""What a file is, told without opening the model."""

import numpy as np
import pytest
import torch

from vesalius.core.errors import UserError
from vesalius.hub.gguf.describe import describe_gguf
from vesalius.hub.gguf.writer import write_gguf
from vesalius.kernels.block_formats import BlockTensor

METADATA = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "tokens": ["a", "b"],
    "template": "{% for m in messages %}\n" * 20,
}


def test_formats_parameters_and_bytes_are_counted(tmp_path):
    tensors = {
        "a": BlockTensor.quantise(torch.ones(4, 64), "q8_0"),
        "b": BlockTensor.quantise(torch.ones(2, 64), "q8_0"),
        "norm": BlockTensor.quantise(torch.ones(64), "f32"),
    }
    path = tmp_path / "model.gguf"
    write_gguf(path, METADATA, tensors)
    told = describe_gguf(path)
    assert told.file_bytes == path.stat().st_size
    assert told.parameters == 7 * 64
    assert told.rows() == [
        ("q8_0", "2", "384", "0.0", "8.50"),
        ("f32", "1", "64", "0.0", "32.00"),
        ("all", "3", "448", "0.0", "11.86"),
    ]
    assert told.tensor_bytes == 12 * 34 + 256


def test_metadata_is_told_in_short_lines(tmp_path):
    write_gguf(tmp_path / "model.gguf", METADATA | {"eps": np.float32(0.5)}, {})
    told = describe_gguf(tmp_path / "model.gguf")
    assert told.metadata["general.architecture"] == "llama"
    assert told.metadata["llama.block_count"] == "2"
    assert told.metadata["tokens"] == "2 items"
    assert told.metadata["eps"] == "0.5"
    assert len(told.metadata["template"]) == 100
    assert all(value.isprintable() for value in told.metadata.values())
    assert told.rows() == []


def test_what_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(UserError, match="no GGUF file at"):
        describe_gguf(tmp_path / "nothing.gguf")
