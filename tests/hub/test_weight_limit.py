"""Models that are opened within a limit of memory: the same model to the bit, and never more of it in memory."""

import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from adapting import KINDS, stir
from gguf_configs import CONFIGS
from gguf_models import TOKENIZER, file_name, logits, model_named

from vesalius.core.errors import UserError
from vesalius.hub.adapters import save_adapter
from vesalius.hub.directory import save_model
from vesalius.hub.gguf.export import export_gguf
from vesalius.hub.open import open_model, open_with_adapters
from vesalius.infer.language_model import LanguageModel
from vesalius.infer.options import EngineOptions
from vesalius.models.transformer import Transformer


@pytest.fixture(autouse=True)
def place(tmp_path_factory, monkeypatch):
    """Where the files of layers are made."""
    folder = tmp_path_factory.mktemp("place")
    monkeypatch.setattr("vesalius.compress.offload.cache_dir", lambda: folder)
    return folder


def least(path):
    """The limit that the refusal of a smaller one names."""
    with pytest.raises(UserError, match=r"weight_bytes = 1, but the embedding and the head take") as caught:
        open_model(path, weight_bytes=1)
    return int(re.search(r"give at least (\d+)", str(caught.value))[1])


def check_the_same(path, **options):
    """Opens a model within the least limit, with all layers in files."""
    limit = least(path)
    with pytest.raises(UserError, match=f"weight_bytes = {limit - 1}, .*give at least {limit}"):
        open_model(path, weight_bytes=limit - 1)
    limited, whole = open_model(path, weight_bytes=limit, **options)[0], open_model(path, **options)[0]
    assert limited.model.layers.offloaded == list(range(whole.config.num_hidden_layers))
    for _ in range(2):  # the second time after every page was let go
        assert torch.equal(logits(limited), logits(whole))
    assert limited.state_dict().keys() == whole.state_dict().keys()


@pytest.mark.parametrize("dtype", ["f32", "q8_0"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_gguf_file_is_the_same_model(name, dtype, tmp_path, place):
    path = tmp_path / file_name(name)
    export_gguf(path, model_named(name), TOKENIZER, dtype=dtype)
    check_the_same(path)
    assert not list(place.iterdir())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_directory_is_the_same_model(name, dtype, tmp_path):
    save_model(tmp_path / "model", model_named(name).to(dtype), TOKENIZER)
    check_the_same(tmp_path / "model")


def test_layers_that_fit_stay_and_a_limit_for_all_changes_nothing(tmp_path):
    save_model(tmp_path / "model", model_named("llama"), TOKENIZER)
    whole = sum(parameter.nbytes for parameter in model_named("llama").parameters())
    layer = sum(parameter.nbytes for parameter in model_named("llama").model.layers[0].parameters())
    opened = {limit: open_model(tmp_path / "model", weight_bytes=limit)[0] for limit in (whole - 1, whole)}
    assert opened[whole - 1].model.layers.offloaded == [1, 2, 3]
    assert type(opened[whole].model.layers) is type(open_model(tmp_path / "model")[0].model.layers)
    assert open_model(tmp_path / "model", weight_bytes=whole - layer)[0].model.layers.offloaded == [1, 2, 3]


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A model whose layers take 110 MB in float32: as a directory in bfloat16 and in float32, and 29 MB in q8_0."""
    folder, shape = tmp_path_factory.mktemp("large"), {"hidden_size": 512, "intermediate_size": 1536, "head_dim": 64}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 8, "num_hidden_layers": 8}
    model = Transformer(replace(model_named("llama").config, **shape, **heads)).eval()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)  # the disk may take its time
        save_model(folder / "float32", model, TOKENIZER)
        export_gguf(folder / "q8_0.gguf", model, TOKENIZER, dtype="q8_0")
        save_model(folder / "bfloat16", model.bfloat16(), TOKENIZER)
    return folder


PROGRAM = """
import sys, torch
from vesalius.core.hardware import peak_bytes
from vesalius.hub.open import open_model
from vesalius.kernels.native.interface import available
available()
before = peak_bytes()
model, _ = open_model(sys.argv[1], weight_bytes=int(sys.argv[2]))
tokens = torch.arange(8).unsqueeze(0)
with torch.inference_mode():
    model(tokens)
assert model.model.layers.offloaded
print(peak_bytes() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere pages come and go as the system sees fit")
@pytest.mark.parametrize(
    ("name", "limit"), [("float32", 35_000_000), ("bfloat16", 35_000_000), ("q8_0.gguf", 10_000_000)]
)
def test_opening_and_running_take_little_more_than_the_limit(large, name, limit):
    command = [sys.executable, "-c", PROGRAM, str(large / name), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < limit + 12_000_000


@pytest.fixture
def small(tmp_path):
    save_model(tmp_path / "model", model_named("llama"), TOKENIZER)
    export_gguf(tmp_path / "model.gguf", model_named("llama"), TOKENIZER, dtype="q8_0")
    return tmp_path


def test_a_packed_file_may_change_once_the_model_is_open(small):
    path = small / "model.gguf"
    opened, expected = open_model(path, weight_bytes=least(path))[0], logits(open_model(path)[0])
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(logits(opened), expected)


def test_a_directory_may_be_saved_anew_under_an_open_model(small):
    path = small / "model"
    opened, expected = open_model(path, weight_bytes=least(path))[0], logits(open_model(path)[0])
    save_model(path, model_named("qwen3"), TOKENIZER)
    assert torch.equal(logits(opened), expected)


@pytest.mark.parametrize("kind", ["lora", "prefix"])
@pytest.mark.parametrize("name", ["model", "model.gguf"])
def test_an_adapter_around_it_does_what_it_does_around_the_whole_model(small, name, kind):
    model = model_named("llama")
    KINDS[kind](model, "mine", 0)
    stir(model, "mine")
    save_adapter(small / "adapter", model, base=small / name)
    limit = EngineOptions(weight_bytes=least(small / name))
    for options in ({"adapter": small / "adapter"}, {"adapters": {"mine": small / "adapter"}}):
        limited, whole = (LanguageModel.load(small / name, engine, **options) for engine in (limit, None))
        chosen = {} if "adapter" in options else {"adapter": "mine"}
        answers = [lm.generate("abab", max_tokens=12, **chosen) for lm in (limited, whole)]
        assert answers[0].ids == answers[1].ids
        assert limited.model.model.layers.offloaded
    plain = open_with_adapters(small / name, {"mine": small / "adapter"}, weight_bytes=limit.weight_bytes)[0]
    assert torch.equal(logits(plain), logits(open_model(small / name)[0]))


@pytest.mark.parametrize("name", ["model", "model.gguf"])
def test_it_is_saved_and_exported_as_the_whole_model_is(small, name):
    limit = EngineOptions(weight_bytes=least(small / name))
    files = []
    for place, options in (("limited", limit), ("whole", None)):
        lm = LanguageModel.load(small / name, options)
        lm.save(small / place / "saved")
        lm.export(small / place / "m.gguf", dtype="q8_0")
        files.append([(small / place / file).read_bytes() for file in ("saved/model.safetensors", "m.gguf")])
    assert files[0] == files[1]
