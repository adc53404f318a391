"""Models in several files: any part opens the whole, and parts that do not belong together are refused in one line."""

import numpy as np
import pytest
import torch
from gguf_models import TOKENIZER, logits, model_named

from vesalius.core.errors import UserError
from vesalius.hub.facts import facts_of
from vesalius.hub.gguf.export import export_gguf
from vesalius.hub.gguf.model import open_gguf
from vesalius.hub.gguf.parts import read_parts
from vesalius.hub.gguf.reader import read_gguf
from vesalius.hub.gguf.writer import write_gguf
from vesalius.hub.open import open_model


def part_name(number, count=3):
    return f"model-{number + 1:05d}-of-{count:05d}.gguf"


def keys(number, count, tensors):
    """As llama-gguf-split writes them: two small unsigned numbers and a signed one."""
    return {"split.no": np.uint16(number), "split.count": np.uint16(count), "split.tensors.count": np.int32(tensors)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "model.gguf"
    export_gguf(path, model_named("qwen3"), TOKENIZER, dtype="q8_0")
    return path


def split(whole, folder, change=lambda number, metadata, tensors: None, count=3):
    """The file in parts; `change` may alter each before it is written."""
    file = read_gguf(whole)
    names = list(file.tensors)
    folder.mkdir(exist_ok=True)
    for number in range(count):
        some = {name: file.tensors[name] for name in names[number::count]}
        metadata = (file.metadata if number == 0 else {}) | keys(number, count, len(names))
        change(number, metadata, some)
        write_gguf(folder / part_name(number, count), metadata, some)
    return folder


@pytest.mark.parametrize("number", range(3))
def test_any_part_opens_the_whole_model(whole, tmp_path, number):
    folder = split(whole, tmp_path / "parts")
    model, tokenizer = open_gguf(folder / part_name(number))
    torch.testing.assert_close(logits(model), logits(open_gguf(whole)[0]), rtol=0, atol=0)
    assert tokenizer.encode("abab") == TOKENIZER.encode("abab")


def test_a_directory_with_all_parts_is_the_model_and_they_are_counted_together(whole, tmp_path):
    folder = split(whole, tmp_path / "parts")
    assert open_model(folder)[0].config == open_model(whole)[0].config
    assert facts_of(folder).formats == facts_of(whole).formats
    (folder / "other.gguf").write_bytes(whole.read_bytes())
    with pytest.raises(UserError, match=r"has no config\.json"):
        open_model(folder)


def test_the_gguf_package_and_llama_cpp_name_parts_and_keys_the_same():
    import gguf
    from gguf.gguf_writer import SHARD_NAME_FORMAT

    assert SHARD_NAME_FORMAT.format("model", 2, 3) == part_name(1)
    told = (gguf.Keys.Split.LLM_KV_SPLIT_NO, gguf.Keys.Split.LLM_KV_SPLIT_COUNT)
    assert (*told, gguf.Keys.Split.LLM_KV_SPLIT_TENSORS_COUNT) == tuple(keys(0, 1, 1))


def damage(number, **values):
    def change(at, metadata, tensors):
        if at == number:
            metadata.update({name.replace("_", "."): value for name, value in values.items()})

    return change


def repeat(number, metadata, tensors):
    if number == 2:
        tensors["token_embd.weight"] = next(iter(tensors.values()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (damage(1, split_no=2), r"00002-of-00003.gguf: split.no is 2, expected 1 by its name"),
        (damage(2, split_count=2**31), r"split.count is 2147483648, expected 3"),
        (damage(0, split_count=True), r"split.count is True, expected 3"),
        (damage(1, split_no="1"), r"split.no is '1', expected 1"),
        (damage(0, split_tensors_count=5), r"parts hold \d+ tensors, split.tensors.count is 5"),
        (repeat, r"has the tensor 'token_embd.weight', and so has a part before it"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused_in_one_line(whole, tmp_path, change, message):
    with pytest.raises(UserError, match=message) as caught:
        read_parts(split(whole, tmp_path / "parts", change) / part_name(0))
    assert "\n" not in str(caught.value)


def test_a_missing_part_is_named(whole, tmp_path):
    folder = split(whole, tmp_path / "parts")
    (folder / part_name(2)).unlink()
    with pytest.raises(UserError, match=r"model-00003-of-00003.gguf is not beside it: fetch all of them"):
        open_gguf(folder / part_name(1))


def test_a_part_under_another_name_says_so(whole, tmp_path):
    folder = split(whole, tmp_path / "parts")
    (folder / part_name(1)).rename(folder / "b.gguf")
    with pytest.raises(UserError, match=r"b.gguf is one of 3 parts, whose names must be"):
        open_gguf(folder / "b.gguf")


@pytest.mark.parametrize("name", ["model-00004-of-00003.gguf", "model-00000-of-00003.gguf"])
def test_a_name_beyond_the_parts_is_one_file(whole, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(whole.read_bytes())
    assert len(read_parts(path).tensors) == len(read_gguf(whole).tensors)
