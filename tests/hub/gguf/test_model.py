"""GGUF files as models: what was exported comes back with the same logits, in blocks that are never unpacked.

The file's side is proven by transformers, which reads the same files with code of its own (`test_export.py`).
"""

import pytest
import torch
from gguf_configs import CONFIGS
from gguf_models import TOKENIZER, file_name, logits, model_named, real_file

from vesalius.compress.quantised_linear import QuantisedEmbedding, QuantisedLinear
from vesalius.core.errors import UserError
from vesalius.hub.gguf.export import export_gguf
from vesalius.hub.gguf.model import open_gguf
from vesalius.hub.gguf.reader import read_gguf
from vesalius.hub.gguf.writer import write_gguf
from vesalius.hub.unpacking import unpacked


@pytest.mark.parametrize("name", CONFIGS)
def test_a_float32_file_has_the_same_logits(name, tmp_path):
    model = model_named(name)
    path = tmp_path / file_name(name)
    export_gguf(path, model, TOKENIZER, dtype="f32")
    opened, tokenizer = open_gguf(path)
    torch.testing.assert_close(logits(opened), logits(model), rtol=1e-5, atol=1e-5)
    assert tokenizer.encode("abab é") == TOKENIZER.encode("abab é")
    assert tokenizer.eos_ids == TOKENIZER.eos_ids
    assert tokenizer.chat_template == TOKENIZER.chat_template


@pytest.fixture(scope="module")
def quantised(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    export_gguf(path, model_named("llama, tied, biases, head_dim"), TOKENIZER, dtype="q8_0")
    return path


def test_matrices_stay_in_their_blocks_and_a_tied_head_shares_them(quantised):
    model, _ = open_gguf(quantised)
    assert isinstance(model.model.embed_tokens, QuantisedEmbedding)
    assert isinstance(model.lm_head, QuantisedLinear)
    assert model.lm_head.matrix is model.model.embed_tokens.matrix
    stored = read_gguf(quantised).tensors["blk.1.ffn_up.weight"]
    assert torch.equal(model.model.layers[1].mlp.up_proj.blocks().blocks, stored.blocks)
    assert all(parameter.dim() == 1 for parameter in model.parameters())


def test_the_blocks_give_the_logits_of_what_they_stand_for(quantised):
    model, _ = open_gguf(quantised)
    exact = logits(unpacked(model))
    assert (logits(model) - exact).abs().max() < 0.03 * exact.abs().max()  # activations are rounded to int8


def test_the_file_may_go_once_the_model_is_open(quantised, tmp_path):
    path = tmp_path / "copy.gguf"
    path.write_bytes(quantised.read_bytes())
    model, _ = open_gguf(path)
    path.write_bytes(bytes(path.stat().st_size))
    torch.testing.assert_close(logits(model), logits(open_gguf(quantised)[0]), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_is_opened_in_the_precision_that_is_asked_for(tmp_path, dtype):
    export_gguf(tmp_path / "m.gguf", model_named("qwen3"), TOKENIZER, dtype="bf16")
    model, _ = open_gguf(tmp_path / "m.gguf", dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


def rewritten(source, target, change):
    """A copy of a file with its metadata and tensors changed."""
    file = read_gguf(source)
    change(file.metadata, file.tensors)
    write_gguf(target, file.metadata, file.tensors)
    return target


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, t: t.pop("blk.1.ffn_up.weight"), r"lacks model.layers.1.mlp.up_proj.weight"),
        (lambda m, t: t.update({"extra.weight": t["output_norm.weight"]}), r"a tensor 'extra.weight'"),
        (lambda m, t: t.update({"blk.0.ffn_norm.weight": t["blk.0.attn_k.bias"]}), r"is \(48,\), expected \(64,\)"),
        (lambda m, t: t.update({"output_norm.weight": t["blk.0.ffn_up.weight"]}), r"expected \(64,\)"),
        (lambda m, t: m.update({"llama.block_count": 3}), r"expected None|no place|lacks"),
        (lambda m, t: m.update({"general.architecture": "bert"}), r"architecture 'bert'"),
        (lambda m, t: m.pop("tokenizer.ggml.model"), r"tokenizer"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(quantised, tmp_path, change, message):
    with pytest.raises(UserError, match=message) as caught:
        open_gguf(rewritten(quantised, tmp_path / "bad.gguf", change))
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def real():
    path = real_file()
    if path is None:
        pytest.skip("smollm2-135m-instruct is not in the cache: vesalius pull smollm2-135m-instruct")
    return path


def test_the_real_file_opens_as_what_it_is(real):
    model, tokenizer = open_gguf(real)
    assert (model.config.num_hidden_layers, model.config.hidden_size, model.config.rope_theta) == (30, 576, 1e5)
    assert tokenizer.encode("Hello world") == [19556, 905]
    assert tokenizer.prompt_prefix == []
    ids = torch.tensor([tokenizer.encode("The capital of France is")])
    with torch.inference_mode():
        assert tokenizer.decode([int(model(ids)[0, -1].argmax())]) == " Paris"


@pytest.mark.slow
def test_the_real_file_has_the_logits_and_ids_of_transformers(real):
    pytest.importorskip("accelerate", reason="transformers reads GGUF only with accelerate")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    theirs = AutoModelForCausalLM.from_pretrained(real.parent, gguf_file=real.name)
    model, tokenizer = open_gguf(real)
    text = "The capital of France is Paris, and 12 + 30 = 42.\n\tdef f(x): return 'é世'"
    ids = AutoTokenizer.from_pretrained(real.parent, gguf_file=real.name).encode(text)
    assert tokenizer.encode(text) == ids
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits
        ours = unpacked(model)(torch.tensor([ids]))
    assert (ours - expected).abs().max() < 1e-4 * expected.abs().max()
