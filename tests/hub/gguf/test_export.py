"""Files for llama.cpp: read by transformers (its own mapping of names and settings) and by llama.cpp itself where it is
installed, with our logits; formats by llama.cpp's conventions.
"""

import importlib.util
import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from family_checks import greedy
from gguf_configs import CONFIGS
from gguf_models import TOKENIZER, TOKENS, file_name, logits, model_named
from hypothesis import given
from hypothesis import strategies as st

from vesalius.core.errors import UserError
from vesalius.hub.gguf.export import FEW_BITS, FILE_TYPES, INSTEAD, choose_format, export_gguf
from vesalius.hub.gguf.model import open_gguf
from vesalius.hub.gguf.reader import read_gguf
from vesalius.kernels.block_formats import FORMATS

READ_BY_TRANSFORMERS = ["llama", "qwen2"]
"""Of the others it leaves out settings that stand in the file, such as head_dim, biases and scaled positions."""

ROUNDING = {
    "f32": 0, "f16": 3e-4, "bf16": 2e-3, "q8_0": 8e-3, "q6_k": 0.03, "q5_k": 0.05, "q5_1": 0.05, "q5_0": 0.05,
    "q4_k": 0.1, "q4_1": 0.1, "q4_0": 0.12, "q3_k": 0.16, "q2_k": 0.31,
}  # fmt: skip
"""Root-mean-square error of normally distributed weights, relative, at most."""


@pytest.mark.slow
@pytest.mark.parametrize("name", READ_BY_TRANSFORMERS)
def test_transformers_reads_the_file_with_the_same_logits(name, tmp_path):
    pytest.importorskip("accelerate", reason="transformers reads GGUF only with accelerate")
    from transformers import AutoModelForCausalLM

    model = model_named(name)
    export_gguf(tmp_path / "m.gguf", model, TOKENIZER, dtype="f32")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", attn_implementation="eager")
    with torch.no_grad():
        torch.testing.assert_close(theirs(TOKENS).logits[0].float(), logits(model), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed")
@pytest.mark.parametrize("name", CONFIGS)
def test_llama_cpp_reads_the_file_with_the_same_logits(name, tmp_path):
    from llama_cpp import Llama

    model = model_named(name)
    path = tmp_path / file_name(name)
    export_gguf(path, model, TOKENIZER, dtype="f32")
    theirs = Llama(str(path), n_ctx=64, logits_all=True, verbose=False, n_threads=1)
    theirs.eval(TOKENS[0].tolist())
    ours = logits(model).numpy()
    found = np.array(theirs.scores)[: len(ours)]
    assert abs(found - ours).max() < 3e-3 * abs(ours).max()  # its cache is float16
    assert theirs.detokenize(theirs.tokenize(b"abab", add_bos=False)) == b"abab"


@pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed")
@pytest.mark.parametrize("name", ["llama, mixtral", "qwen2moe", "qwen3moe", "deepseek2", "gpt-oss"])
def test_llama_cpp_goes_on_with_the_same_words(name, tmp_path):
    from llama_cpp import Llama

    path = tmp_path / file_name(name)
    export_gguf(path, model_named(name), TOKENIZER, dtype="f32")
    theirs, prompt = Llama(str(path), n_ctx=64, verbose=False, n_threads=1), TOKENS[0, :12].tolist()
    words = list(itertools.islice(theirs.generate(prompt, temp=0.0, top_k=1, repeat_penalty=1.0), 12))
    assert words == greedy(open_gguf(path)[0], TOKENS[:, :12], 12)


@pytest.mark.parametrize("dtype", FILE_TYPES)
def test_a_format_keeps_what_it_can(dtype, tmp_path):
    model = model_named("qwen3", hidden_size=256, num_attention_heads=4, intermediate_size=288)
    architecture, tensors = export_gguf(tmp_path / "m.gguf", model, TOKENIZER, dtype=dtype)
    file = read_gguf(tmp_path / "m.gguf")
    assert architecture == "qwen3"
    assert Counter(tensor.format for tensor in file.tensors.values()) == tensors
    assert file.tensors["blk.0.attn_q.weight"].format == dtype
    assert file.tensors["blk.0.attn_norm.weight"].format == file.tensors["blk.0.attn_q_norm.weight"].format == "f32"
    if dtype in FEW_BITS:
        assert file.tensors["token_embd.weight"].format == file.tensors["output.weight"].format == "q6_k"
    if dtype.endswith("_k"):  # rows of 288 values
        assert file.tensors["blk.0.ffn_down.weight"].format == INSTEAD[dtype]
    assert file.metadata["general.file_type"] == FILE_TYPES[dtype]
    weight = model.state_dict()["model.layers.0.self_attn.q_proj.weight"]
    error = (file.tensors["blk.0.attn_q.weight"].dequantise() - weight).norm() / weight.norm()
    assert error <= ROUNDING[dtype]


def test_what_is_quantised_already_keeps_its_blocks(tmp_path):
    export_gguf(tmp_path / "a.gguf", model_named("llama"), TOKENIZER, dtype="q4_1")
    opened, tokenizer = open_gguf(tmp_path / "a.gguf")
    export_gguf(tmp_path / "b.gguf", opened, tokenizer, dtype="q4_1")
    first, second = read_gguf(tmp_path / "a.gguf"), read_gguf(tmp_path / "b.gguf")
    assert all(torch.equal(first.tensors[name].blocks, tensor.blocks) for name, tensor in second.tensors.items())
    free = ("general.name", "tokenizer.ggml.token_type")  # the name is the file's; pads are plain tokens once read
    assert {k: v for k, v in first.metadata.items() if k not in free} == {
        k: v for k, v in second.metadata.items() if k not in free
    }


@given(
    dtype=st.sampled_from(sorted(FILE_TYPES)),
    rows=st.integers(1, 999),
    columns=st.integers(1, 4096),
    name=st.sampled_from(["blk.0.attn_q.weight", "token_embd.weight", "position_embd.weight", "output.weight"]),
)
def test_the_chosen_format_can_always_hold_the_rows(dtype, rows, columns, name):
    chosen = choose_format(name, (rows, columns), dtype)
    assert columns % FORMATS[chosen].block_size == 0
    assert FORMATS[chosen].quantise is not None
    assert choose_format(name, (columns,), dtype) == "f32"


def test_a_smaller_vocabulary_is_filled_up_with_tokens_that_no_text_gives(tmp_path):
    export_gguf(tmp_path / "m.gguf", model_named("qwen3"), TOKENIZER, dtype="f16")
    metadata = read_gguf(tmp_path / "m.gguf").metadata
    assert len(metadata["tokenizer.ggml.tokens"]) == len(metadata["tokenizer.ggml.token_type"]) == 300
    assert open_gguf(tmp_path / "m.gguf")[1].encode("[PAD260]") == TOKENIZER.encode("[PAD260]")


def test_an_unknown_format_and_an_unsayable_model_leave_nothing_behind(tmp_path):
    with pytest.raises(UserError, match=r"dtype 'q4k' .*did you mean 'q4_k'"):
        export_gguf(tmp_path / "m.gguf", model_named("qwen3"), TOKENIZER, dtype="q4k")
    with pytest.raises(UserError, match=r"llama\.cpp has no architecture"):
        export_gguf(tmp_path / "m.gguf", model_named("qwen3", norm="layer"), TOKENIZER)
    assert list(tmp_path.iterdir()) == []
