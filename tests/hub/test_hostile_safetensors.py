"""Checkpoints that anyone may have written: damaged headers and shard names that lead elsewhere are one clear line."""

import json
import struct
import tracemalloc
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vesalius.core.errors import UserError
from vesalius.hub.directory import open_model, save_model
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.bpe import BPE, SPECIAL_TOKENS
from vesalius.tokenizers.tokenizer import Tokenizer

SPECIAL = {text: i for i, text in enumerate(SPECIAL_TOKENS)}
TOKENIZER = Tokenizer.from_bpe(BPE({bytes([b]): b + len(SPECIAL) for b in range(256)}, [], SPECIAL))
TINY = ModelConfig(
    vocab_size=TOKENIZER.vocab_size,
    hidden_size=16,
    intermediate_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=32,
)
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MOST_BYTES = 4_000_000


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model; tests put other weights into it."""
    path = tmp_path_factory.mktemp("checkpoint") / "model"
    save_model(path, Transformer(TINY), TOKENIZER)
    open_model(path)  # what is loaded once and stays is not counted
    return path


@pytest.fixture(scope="module")
def weights(checkpoint: Path) -> bytes:
    return (checkpoint / WEIGHTS).read_bytes()


@pytest.fixture
def model(checkpoint: Path, weights: bytes) -> Path:
    """The checkpoint with its own weights and no index, whatever the test before left there."""
    for path in checkpoint.glob("*.safetensors*"):
        path.unlink()
    (checkpoint / WEIGHTS).write_bytes(weights)
    return checkpoint


def refusal(directory: Path) -> str:
    """The line that opening the directory ends with, "" where it opens."""
    tracemalloc.start()
    try:
        open_model(directory)
    except UserError as error:
        return str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MOST_BYTES
    return ""


def file(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def tensor(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


HOSTILE = {
    "empty": b"",
    "cut in the length": b"\x08\0\0",
    "length beyond the file": file({}, length=2**40),
    "length that overflows": file({}, length=2**64 - 1),
    "no JSON": file(b"{" * 64),
    "not an object": file([1, 2, 3]),
    "deeply nested": file(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "not UTF-8": file(b'{"\xff": 1}'),
    "offsets outside": file({"w": tensor([4], 0, 16)}, bytes(8)),
    "offsets reversed": file({"w": tensor([4], 16, 0)}, bytes(16)),
    "negative offsets": file({"w": tensor([4], -16, 0)}, bytes(16)),
    "shape larger than its bytes": file({"w": tensor([2**20], 0, 16)}, bytes(16)),
    "shape that overflows": file({"w": tensor([2**62, 16], 0, 0)}),
    "negative shape": file({"w": tensor([-4], 0, 16)}, bytes(16)),
    "unknown dtype": file({"w": tensor([4], 0, 16, "F99")}, bytes(16)),
    "shared bytes": file({"v": tensor([4], 0, 16), "w": tensor([4], 0, 16)}, bytes(16)),
    "hole between tensors": file({"v": tensor([4], 0, 16), "w": tensor([4], 32, 48)}, bytes(48)),
    "bytes behind the tensors": file({"w": tensor([4], 0, 16)}, bytes(64)),
    "another format": b"PK\x03\x04" + bytes(200),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_damaged_headers_are_refused_in_one_line(model, case):
    (model / WEIGHTS).write_bytes(HOSTILE[case])
    message = refusal(model)
    assert f"{WEIGHTS} cannot be read" in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("dtype", ["I64", "I32", "U8", "BOOL"])
def test_weights_that_are_no_floats_are_refused(model, weights, dtype):
    size = {"I64": 8, "I32": 4, "U8": 1, "BOOL": 1}[dtype]
    length = struct.unpack("<Q", weights[:8])[0]
    header = json.loads(weights[8 : 8 + length])
    at = 0
    for entry in header.values():
        if "shape" in entry:
            count = torch.Size(entry["shape"]).numel() * size
            entry |= tensor(entry["shape"], at, at + count, dtype)
            at += count
    (model / WEIGHTS).write_bytes(file(header, bytes(at)))
    assert "expected floating-point weights" in refusal(model)


@pytest.mark.parametrize(
    "shard",
    ["../model.safetensors", "/etc/passwd", "a/b.safetensors", ".", "..", "", "\0", "a\nb", "x" * 5000, "C:\\x", INDEX],
    ids=lambda shard: repr(shard)[:20],
)
def test_shard_names_that_lead_elsewhere_or_nowhere_are_refused(model, shard):
    (model / WEIGHTS).unlink()
    (model / INDEX).write_text(json.dumps({"weight_map": {"model.norm.weight": shard}}))
    message = refusal(model)
    assert message
    assert len(message.splitlines()) == 1
    assert len(message) < 600


def test_a_config_nested_too_deep_is_refused(model):
    config = (model / "config.json").read_text()
    (model / "config.json").write_text('{"a":' + "[" * 100_000)
    try:
        assert "config.json is not valid JSON" in refusal(model)
    finally:
        (model / "config.json").write_text(config)


def test_a_directory_in_place_of_a_shard_is_refused(model):
    (model / WEIGHTS).unlink()
    (model / "part.safetensors").mkdir()
    (model / INDEX).write_text(json.dumps({"weight_map": {"model.norm.weight": "part.safetensors"}}))
    try:
        assert "part.safetensors" in refusal(model)
    finally:
        (model / "part.safetensors").rmdir()


@pytest.mark.parametrize(
    "index",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"a"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"weight_map": {"a": 1}}',
        b'{"weight_map": {}}',
    ],
    ids=lambda index: repr(index)[:24],
)
def test_a_damaged_index_is_refused(model, index):
    (model / WEIGHTS).unlink()
    (model / INDEX).write_bytes(index)
    assert refusal(model)


def test_an_index_that_goes_round_in_a_circle_is_refused(model):
    (model / WEIGHTS).unlink()
    for name in ("a.safetensors", "b.safetensors"):  # each pretends to be an index that names the other
        (model / name).write_text(json.dumps({"weight_map": {"model.norm.weight": "ab".replace(name[0], "")}}))
    (model / INDEX).write_text(json.dumps({"weight_map": {"model.norm.weight": "a.safetensors"}}))
    assert "a.safetensors cannot be read" in refusal(model)


def test_links_that_go_round_in_a_circle_are_refused(model):
    (model / WEIGHTS).unlink()
    (model / "a.safetensors").symlink_to("b.safetensors")
    (model / "b.safetensors").symlink_to("a.safetensors")
    (model / INDEX).write_text(json.dumps({"weight_map": {"model.norm.weight": "a.safetensors"}}))
    assert "a.safetensors" in refusal(model)


def test_names_of_tensors_cannot_break_the_line(model, weights):
    (model / WEIGHTS).write_bytes(weights.replace(b'"model.norm.weight"', b'"a\\nb\\u001bsame.size"'))
    message = refusal(model)
    assert message
    assert message.isprintable()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_headers_are_opened_or_refused(model, weights, data):
    header = 8 + struct.unpack("<Q", weights[:8])[0]
    content = bytearray(weights)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, header - 1))
        content[at] = data.draw(st.one_of(st.integers(0, 255), st.sampled_from(b'0123456789-"{}[],:')))
    (model / WEIGHTS).write_bytes(content)
    assert len(refusal(model).splitlines()) <= 1


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fraction=st.floats(0, 1, exclude_max=True))
def test_every_cut_is_refused(model, weights, fraction):
    (model / WEIGHTS).write_bytes(weights[: int(len(weights) * fraction)])
    assert "cannot be read" in refusal(model)
