"""From a name to a model: files, directories, runs and aliases; and what is wrong with a name in one line."""

import json

import pytest
import torch
from gguf_models import TOKENIZER, logits, model_named

from vesalius.console.tables import print_info
from vesalius.core.errors import UserError
from vesalius.hub.directory import save_model
from vesalius.hub.export import export_model
from vesalius.hub.facts import facts_of
from vesalius.hub.open import open_model
from vesalius.hub.unpacking import unpacked
from vesalius.infer.language_model import LanguageModel
from vesalius.pipeline.measuring import describe


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The same model as a directory, a .gguf file, and a directory with one .gguf file."""
    folder = tmp_path_factory.mktemp("models")
    model = model_named("qwen3")
    save_model(folder / "directory", model, TOKENIZER)
    for name in ("file.gguf", "only/model.gguf", "two/a.gguf", "two/b.gguf"):
        export_model(folder / name, model, TOKENIZER, dtype="f32")
    (folder / "model.safetensors").write_bytes(b"")
    (folder / "pytorch_model.bin").write_bytes(b"")
    (folder / "notes.txt").write_text("hello")
    return folder, model


@pytest.mark.parametrize("name", ["directory", "file.gguf", "only", "only/model.gguf"])
def test_every_form_opens_as_the_same_model(places, name):
    folder, model = places
    opened, tokenizer = open_model(folder / name)
    torch.testing.assert_close(logits(opened), logits(model), rtol=1e-5, atol=1e-5)
    assert tokenizer.encode("abc") == TOKENIZER.encode("abc")
    assert open_model(str(folder / name))[0].config == opened.config


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "no model at .*nothing"),
        ("fil.gguf", "did you mean 'file.gguf'"),
        ("two", "has no config.json"),
        ("model.safetensors", "one file of a model: give its directory"),
        ("pytorch_model.bin", "is a pickle, which can run any code"),
        ("notes.txt", "is a file, expected a .gguf file"),
    ],
)
def test_what_is_no_model_is_refused_in_one_line(places, name, message):
    with pytest.raises(UserError, match=message) as caught:
        open_model(places[0] / name)
    assert "\n" not in str(caught.value)


def test_an_encoder_is_no_model_to_continue_texts():
    with pytest.raises(UserError, match=r"minilm-l6 is an encoder .*cannot continue a text"):
        open_model("minilm-l6")


def test_a_directory_is_exported_as_a_directory_that_transformers_opens(places, tmp_path):
    from transformers import AutoModelForCausalLM

    folder, model = places
    lm = LanguageModel.load(folder / "file.gguf")
    done = lm.export(tmp_path / "out", dtype="bf16")
    assert (done.architecture, done.tensors) == ("qwen3", {"bf16": len(list(model.parameters()))})
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.bfloat16)
    assert torch.equal(theirs.model.embed_tokens.weight, model.model.embed_tokens.weight.bfloat16())


def test_a_quantised_model_is_saved_with_the_numbers_that_its_blocks_mean(places, tmp_path):
    LanguageModel.load(places[0] / "file.gguf").export(tmp_path / "m.gguf", dtype="q8_0")
    lm = LanguageModel.load(tmp_path / "m.gguf")
    lm.save(tmp_path / "saved")
    torch.testing.assert_close(
        logits(open_model(tmp_path / "saved")[0]), logits(unpacked(lm.model)), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize(
    ("target", "dtype", "message"),
    [
        ("out", "q8_0", "only a .gguf file holds it"),
        ("out", "float32", "did you mean 'f32'"),
        ("out.gguf", "q8", "did you mean 'q8_0'"),
        ("directory", None, "exists already: choose a new directory"),
        ("notes.txt", None, "exists already"),
        ("notes.txt/deeper.gguf", None, "cannot write"),
    ],
)
def test_an_export_that_cannot_be_leaves_everything_as_it_was(places, target, dtype, message):
    folder, model = places
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(UserError, match=message):
        export_model(folder / target, model, TOKENIZER, dtype=dtype)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_facts_tell_how_a_model_is_stored_without_opening_it(places, tmp_path):
    folder, model = places
    export_model(tmp_path / "m.gguf", model, TOKENIZER, dtype="q8_0")
    stored = facts_of(tmp_path / "m.gguf")
    assert (stored.container, stored.architecture) == ("GGUF", "qwen3")
    assert stored.tokenizer == {
        "tokens": 300,
        "special_tokens": 3,
        "end_tokens": ["<|endoftext|>", "<|im_end|>"],
        "chat_template": True,
    }
    linear = sum(tensor.numel() for tensor in model.parameters() if tensor.dim() > 1)
    assert stored.formats["q8_0"] == {"tensors": 4 * 7 + 2, "numbers": linear, "bytes": linear // 32 * 34}
    assert stored.metadata["qwen3.block_count"] == "4"
    assert stored.metadata["tokenizer.ggml.tokens"] == "300 items"
    assert all(value.isprintable() and len(value) <= 100 for value in stored.metadata.values())
    directory = facts_of(folder / "directory")
    assert (directory.container, directory.architecture) == ("Hugging Face directory", "qwen3")
    assert directory.config == model.config
    numbers = sum(p.numel() for p in model.parameters())
    assert directory.formats == {
        "f32": {"tensors": len(list(model.parameters())), "numbers": numbers, "bytes": 4 * numbers}
    }
    assert directory.metadata == {}


def test_facts_of_a_mixture_tell_what_one_token_uses(tmp_path, capsys):
    export_model(tmp_path / "m.gguf", model_named("qwen3moe"), TOKENIZER, dtype="f32")
    facts = describe(str(tmp_path / "m.gguf"))
    unused = 4 * (6 - 2) * 3 * 64 * 32  # layers, experts, matrices
    assert facts["active_parameters"]["mlp"] == facts["parameters"]["mlp"] - unused
    assert facts["active_parameters"]["total"] == facts["parameters"]["total"] - unused
    print_info(facts)
    printed = capsys.readouterr().out
    assert "of them for a token" in printed
    assert "qwen3moe.expert_count = 6" in printed
    print_info(describe("nano"))
    assert "of them for a token" not in capsys.readouterr().out


def test_a_config_that_is_no_object_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps([1]))
    with pytest.raises(UserError, match="must hold a JSON object, got list"):
        facts_of(tmp_path)
