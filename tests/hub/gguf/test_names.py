"""Tensor names and row order: there and back for every architecture, against what converters write."""

import pytest
import torch
from gguf_configs import CONFIGS, config_named

from vesalius.core.errors import UserError
from vesalius.hub.gguf.architectures import ARCHITECTURES
from vesalius.hub.gguf.names import stored_names, to_ours, to_stored
from vesalius.kernels.block_formats import BlockTensor
from vesalius.models.transformer import Transformer


def weights_of(config):
    weights = {name: BlockTensor.quantise(tensor, "f32") for name, tensor in Transformer(config).state_dict().items()}
    if config.tie_word_embeddings:
        del weights["lm_head.weight"]
    return weights


def stored(config, architecture):
    ours = weights_of(config)
    names = stored_names(ours, architecture)
    return ours, {
        name: to_stored(name, {part: ours[part] for part in parts}, architecture, config)
        for name, parts in names.items()
    }


@pytest.mark.parametrize("name", CONFIGS)
def test_every_tensor_of_every_architecture_comes_back(name):
    config, architecture = config_named(name), ARCHITECTURES[name.split(",")[0]]
    ours, file = stored(config, architecture)
    back = to_ours(file, architecture, config)
    assert back.keys() == ours.keys()
    for key, tensor in ours.items():
        torch.testing.assert_close(back[key].dequantise(), tensor.dequantise(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_names_are_those_of_the_gguf_package(name):
    import gguf

    known = {arch: number for number, arch in gguf.MODEL_ARCH_NAMES.items()}
    architecture = name.split(",")[0]
    tensors = {gguf.TENSOR_NAMES[kind] for kind in gguf.MODEL_TENSORS[known[architecture]]}
    ours = ARCHITECTURES[architecture]
    head = {"output"} if ours.biases.get("tie_word_embeddings") else set()
    names = [*ours.stems, *(name.rpartition(".")[0] for name in ours.exact)]
    joined = {"blk.{bid}.attn_kv_b"} if ours.latent else set()  # of old files
    assert {stem.format("{bid}") for stem in names} <= tensors | head | joined


def test_rows_of_q_and_k_are_permuted_as_converters_do_it():
    """`LlamaModel.permute` of convert_hf_to_gguf.py, in its own words: two halves of a head become pairs."""
    config, architecture = config_named("llama, tied, biases, head_dim"), ARCHITECTURES["llama"]
    ours, file = stored(config, architecture)
    for theirs, mine, heads in (("attn_q", "q_proj", 4), ("attn_k", "k_proj", 2)):
        for kind in ("weight", "bias"):
            plain = ours[f"model.layers.1.self_attn.{mine}.{kind}"].dequantise()
            expected = plain.reshape(heads, 2, 12, *plain.shape[1:]).swapaxes(1, 2).reshape(plain.shape)
            torch.testing.assert_close(file[f"blk.1.{theirs}.{kind}"].dequantise(), expected, rtol=0, atol=0)


def test_permuting_blocks_is_permuting_values():
    config, architecture = config_named("llama"), ARCHITECTURES["llama"]
    name = "blk.0.attn_q.weight"
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    blocks = BlockTensor.quantise(weight, "q4_1")
    (ours,) = to_ours({name: blocks}, architecture, config).values()
    exact = BlockTensor.quantise(blocks.dequantise(), "f32")
    (expected,) = to_ours({name: exact}, architecture, config).values()
    assert ours.format == "q4_1"
    torch.testing.assert_close(ours.dequantise(), expected.dequantise(), rtol=0, atol=0)


def test_a_fused_matrix_is_cut_without_a_copy():
    config, architecture = config_named("phi3"), ARCHITECTURES["phi3"]
    fused = BlockTensor.quantise(torch.randn(128, 64), "q8_0")
    parts = to_ours({"blk.2.attn_qkv.weight": fused}, architecture, config)
    assert [tensor.shape[0] for tensor in parts.values()] == [64, 32, 32]
    assert all(
        tensor.blocks.untyped_storage().data_ptr() == fused.blocks.untyped_storage().data_ptr()
        for tensor in parts.values()
    )


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("blk.0.attn_magic.weight", (4, 4), "has a tensor 'blk.0.attn_magic.weight'"),
        ("token_embd", (4, 4), "has a tensor 'token_embd'"),
        ("blk.0.attn_q.weight", (60, 64), "q_proj.weight has 60 rows, expected 4 heads of 16"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused(name, shape, message):
    with pytest.raises(UserError, match=message):
        to_ours({name: BlockTensor.quantise(torch.zeros(shape), "f32")}, ARCHITECTURES["llama"], config_named("llama"))


def test_rotary_factors_are_not_weights():
    factors = {"rope_freqs.weight": BlockTensor.quantise(torch.ones(8), "f32")}
    assert to_ours(factors, ARCHITECTURES["llama"], config_named("llama")) == {}
