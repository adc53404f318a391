"""What a training run may start from."""

import re
from pathlib import Path

import torch
from gguf_models import TOKENIZER, logits, model_named
from tiny import RECIPE, called, write_texts

import vesalius
from vesalius.adapt.lora import LoraConfig, add_lora
from vesalius.adapt.switch import adapted_layers, is_adapted
from vesalius.hub import open as hub_open
from vesalius.hub.adapters import save_adapter
from vesalius.hub.directory import save_model
from vesalius.hub.gguf.export import export_gguf
from vesalius.hub.open import open_model
from vesalius.hub.unpacking import is_quantised, weights_of
from vesalius.pipeline.stages import open_start


def test_a_directory_or_a_name_of_one_is_a_model_to_start_from(tmp_path, monkeypatch):
    model = model_named("llama")
    save_model(tmp_path / "fetched", model, TOKENIZER)
    direct, _ = open_start(str(tmp_path / "fetched"), print)
    monkeypatch.setattr(hub_open, "locate", lambda name: tmp_path / Path(name).name)
    named, tokenizer = open_start("owner/fetched", print)
    for opened in (direct, named):
        for ours, theirs in zip(opened.parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert tokenizer.encode("ab") == TOKENIZER.encode("ab")


def test_a_gguf_file_is_unpacked_into_floats_and_told(tmp_path):
    export_gguf(tmp_path / "tiny.gguf", model_named("llama"), TOKENIZER)
    told = []
    model, _ = open_start(str(tmp_path / "tiny.gguf"), told.append)
    stored = open_model(tmp_path / "tiny.gguf")[0]
    assert not is_quantised(model)
    assert is_quantised(stored)
    for name, weight in weights_of(stored).items():
        assert torch.equal(weight.values(), model.get_parameter(name))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert re.fullmatch(r".*tiny.gguf: quantised weights as float32, \d+ MB, since only floats can be trained", told[0])


def test_an_adapter_is_merged_into_its_base_before_training(tmp_path):
    save_model(tmp_path / "base", model_named("llama"), TOKENIZER)
    adapted = model_named("llama")
    add_lora(adapted, LoraConfig(lora_r=2))
    for layer in adapted_layers(adapted).values():
        torch.nn.init.ones_(layer.adapters["default"].lora_B)
    save_adapter(tmp_path / "adapter", adapted, base=tmp_path / "base")
    model, _ = open_start(str(tmp_path / "adapter"), print)
    assert not is_adapted(model)
    torch.testing.assert_close(logits(model), logits(adapted), rtol=0, atol=1e-5)


def test_a_model_is_trained_on_tokens_of_the_kind_that_is_asked_for(tmp_path):
    write_texts(tmp_path / "texts")
    (tmp_path / "tiny.toml").write_text(RECIPE.format(folder=tmp_path / "texts").split("[sft]")[0])
    settings = ("tokenizer.kind=unigram", "tokenizer.vocab_size=380", "train.steps=2")
    done = called("run", tmp_path / "tiny.toml", "--out", tmp_path / "run", *(f"--set={one}" for one in settings))
    assert done.returncode == 0, done.stderr
    lm = vesalius.load(tmp_path / "run")
    assert lm.config.vocab_size == lm.tokenizer.vocab_size == 380
    assert lm.tokenizer.decode(lm.tokenizer.encode("def é:\n    x")) == "def é:\n    x"
    assert lm.generate("def ", max_tokens=4).usage.completion_tokens == 4
