"""Adapters in directories: by themselves, around a base, beside it; and one line for what is damaged or of another
model."""

import json

import pytest
import torch
from adapting import KINDS, LINEAR_MAPS, hidden, stir
from gguf_models import TOKENIZER, model_named
from safetensors.torch import load_file, save_file

import vesalius as vs
from vesalius.adapt.lora import LoraConfig, add_lora
from vesalius.adapt.switch import adapted_layers, adapter_names, is_adapted, switch
from vesalius.core.errors import UserError
from vesalius.hub.adapters import load_adapter, save_adapter
from vesalius.hub.directory import save_model
from vesalius.hub.export import export_model
from vesalius.hub.open import open_model

IDS = torch.tensor([[5, 9, 17, 3, 40]])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "model"
    save_model(folder, model_named("llama"), TOKENIZER)
    return folder


def adapted(kind="lora", name="default"):
    model = model_named("llama")
    KINDS[kind](model, name, 0)
    stir(model, name)
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_saved_is_read_back(kind, base, tmp_path):
    model = adapted(kind)
    save_adapter(tmp_path / "adapter", model, base=base)
    expected = hidden(model, IDS)
    for opened in (open_model(tmp_path / "adapter"), open_model(base, adapter=tmp_path / "adapter")):
        torch.testing.assert_close(hidden(opened[0], IDS), expected, rtol=0, atol=1e-6)
        assert not any(parameter.requires_grad for parameter in opened[0].parameters())
        assert not opened[0].training
    again, _ = open_model(base)
    load_adapter(again, tmp_path / "adapter", "mine")
    assert adapter_names(again) == ("mine",)
    parameters = dict(again.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, parameters[name.replace("adapters.default", "adapters.mine")])


def test_one_of_several_is_saved_by_its_name(tmp_path):
    model = adapted()
    KINDS["ia3"](model, "other", 0)
    save_adapter(tmp_path / "adapter", model, "other")
    assert json.loads((tmp_path / "adapter/adapter_config.json").read_text())["peft_type"] == "IA3"
    for name, message in ((None, "several adapters: give one of default, other"), ("othre", "no adapter 'othre'")):
        with pytest.raises(UserError, match=message):
            save_adapter(tmp_path / "adapter", model, name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_has_its_adapter_merged_or_beside(kind, tmp_path):
    model = adapted(kind)
    save_model(tmp_path / "model", model, TOKENIZER)
    assert (tmp_path / "model/adapter_config.json").exists() == (kind not in LINEAR_MAPS)
    opened, _ = open_model(tmp_path / "model")
    assert is_adapted(opened) == (kind not in LINEAR_MAPS)
    torch.testing.assert_close(hidden(opened, IDS), hidden(model, IDS), rtol=0, atol=1e-5)


def test_an_exported_model_has_its_adapter_merged(tmp_path):
    model = adapted()
    expected = hidden(model, IDS)
    for name in ("model.gguf", "directory"):
        export_model(tmp_path / name, model, TOKENIZER, dtype="f32")
        torch.testing.assert_close(hidden(open_model(tmp_path / name)[0], IDS), expected, rtol=0, atol=1e-5)
    with pytest.raises(UserError, match="is no change of its weights"):
        export_model(tmp_path / "prompt.gguf", adapted("prompt"), TOKENIZER, dtype="f32")


def test_an_adapter_goes_around_quantised_weights_too(base, tmp_path):
    save_adapter(tmp_path / "adapter", adapted(), base=tmp_path / "base.gguf")
    export_model(tmp_path / "base.gguf", model_named("llama"), TOKENIZER, dtype="q8_0")
    plain, opened = vs.load(str(tmp_path / "base.gguf")), vs.load(str(tmp_path / "adapter"))
    assert {type(layer.base).__name__ for layer in adapted_layers(opened.model).values()} == {"QuantisedLinear"}
    in_floats = vs.load(str(base), adapter=str(tmp_path / "adapter"))
    ours, base_alone, exact = (lm.logits(IDS[0].tolist()) for lm in (opened, plain, in_floats))
    assert (ours - exact).norm() < 0.2 * (base_alone - exact).norm()
    written = opened.generate("ab", max_tokens=6).ids
    ids = [*opened.prompt_ids("ab"), *written]
    assert opened.logits(ids)[-7:-1].argmax(-1).tolist() == written
    switch(opened.model)
    torch.testing.assert_close(opened.logits(IDS[0].tolist()), base_alone, rtol=0, atol=0)


def change_settings(**changes):
    def change(folder):
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def change_tensors(edit):
    def change(folder):
        path = folder / "adapter_model.safetensors"
        save_file(edit(load_file(path)), path)

    return change


def remove(name):
    return lambda folder: (folder / name).unlink()


def cut_off(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:60])


def pickled(folder):
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def renamed(old, new):
    return change_tensors(lambda tensors: {name.replace(old, new): tensor for name, tensor in tensors.items()})


UP = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"
DAMAGES = [
    (remove("adapter_config.json"), "holds no adapter"),
    (remove("adapter_model.safetensors"), "has no adapter_model.safetensors: the download or the save is incomplete"),
    (pickled, "is a pickle, which can run any code"),
    (cut_off("adapter_config.json"), "is not valid JSON"),
    (cut_off("adapter_model.safetensors"), "cannot be read .* cut off or damaged"),
    (change_settings(peft_type="LROA"), "an adapter of kind 'LROA', did you mean 'LORA'"),
    (change_settings(peft_type=None), "an adapter of kind 'None', known: "),
    (change_settings(modules_to_save=["lm_head"]), "has modules_to_save set, which is not supported"),
    (change_settings(bias="all"), "has trained biases"),
    (change_settings(init_lora_weights="pissa_niter_4"), "began by pissa_niter_4, which changes the base"),
    (change_settings(lora_alpha="much"), "adapter_config.json is not what PEFT writes"),
    (change_settings(alpha_pattern={"(": 3}), "is no expression for names of layers"),
    (change_settings(alpha_pattern={r"(?:(?:.|..)+)+[A-Z]": 3}), "is no expression for names of layers"),
    (change_settings(use_dora=True), "has lora_A.weight, lora_B.weight, expected .*lora_magnitude_vector"),
    (change_tensors(lambda _: {"x": torch.zeros(1)}), "it holds 'x', which is no part of an adapter"),
    (change_tensors(lambda tensors: {UP: tensors[UP]}), "up_proj has lora_A.weight, expected lora_A.weight, lora_B"),
    (change_tensors(lambda tensors: tensors | {UP: torch.zeros(4, 7)}), r"float32 \(4, 7\), expected floats \(4, "),
    (change_tensors(lambda tensors: tensors | {UP: tensors[UP].int()}), r"int32 .* expected floats"),
    (renamed("layers.0", "layers.7"), "it belongs to another model: it changes 'model.layers.7"),
    (renamed("up_proj", "upp_proj"), "it changes 'model.layers.0.mlp.upp_proj', did you mean"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_what_is_damaged_or_foreign_is_one_line_and_leaves_the_model_alone(damage, message, base, tmp_path):
    save_adapter(tmp_path / "adapter", adapted(), base=base)
    damage(tmp_path / "adapter")
    with pytest.raises(UserError, match=message) as caught:
        open_model(base, adapter=tmp_path / "adapter")
    assert "\n" not in str(caught.value)
    model, _ = open_model(base)
    with pytest.raises(UserError):
        load_adapter(model, tmp_path / "adapter")
    assert not is_adapted(model)


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_virtual_tokens_of_another_model_are_told(kind, tmp_path):
    save_adapter(tmp_path / "adapter", adapted(kind))
    model = model_named("qwen3")
    wide = {"prompt_embeddings": torch.zeros(3, 1000)}
    save_file(wide, tmp_path / "adapter/adapter_model.safetensors")
    with pytest.raises(UserError, match=r"prompt_embeddings: float32 \(3, 1000\), expected floats \(3, "):
        load_adapter(model, tmp_path / "adapter")


def test_an_adapter_needs_a_base_that_is_none(base, tmp_path):
    model = adapted()
    save_adapter(tmp_path / "nameless", model)
    save_adapter(tmp_path / "second", model, base=tmp_path / "nameless")
    save_adapter(tmp_path / "lost", model, base=tmp_path / "nowhere")
    for name, message in (
        ("nameless", "does not name its base model: open the base"),
        ("second", "the base of .*second is an adapter too"),
        ("lost", "no model at .*nowhere"),
    ):
        with pytest.raises(UserError, match=message):
            open_model(tmp_path / name)


def test_patterns_of_ranks_outlive_a_file(base, tmp_path):
    model = model_named("llama")
    add_lora(model, LoraConfig(lora_r=4, use_rslora=True, rank_pattern={"layers.1.*": 2}, alpha_pattern={"q_proj": 5}))
    save_adapter(tmp_path / "adapter", model, base=base)
    found = adapted_layers(open_model(tmp_path / "adapter")[0])
    for path, layer in adapted_layers(model).items():
        ours, theirs = layer.adapters["default"], found[path].adapters["default"]
        assert (len(theirs.lora_A), theirs.scale) == (len(ours.lora_A), pytest.approx(ours.scale, rel=1e-12))
