"""The families with a mixture of experts or latent attention: a published checkpoint opens with the same logits,
gradients and text, and is saved back under its own names."""

import json
from dataclasses import replace

import pytest
import torch
import transformers
from family_checks import (
    SIZES,
    TOKENIZER,
    FamilyChecks,
    check_logits,
    close,
    open_pair,
    randomise,
    sample_tokens,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from vesalius.core.errors import UserError
from vesalius.hub.directory import open_model, save_model
from vesalius.models.config import ModelConfig
from vesalius.models.config_sections import LatentAttention, Mixture
from vesalius.models.families import read_config, write_config
from vesalius.models.families.gpt_oss import WEIGHTS as GPT_OSS
from vesalius.models.families.gpt_oss import unpack_mxfp4
from vesalius.models.transformer import Transformer

MIXTURE = {"num_experts_per_tok": 2}
QWEN = MIXTURE | {"num_experts": 4, "moe_intermediate_size": 24, "norm_topk_prob": True}
DEEPSEEK = (
    SIZES
    | MIXTURE
    | {
        "num_key_value_heads": 4,
        "n_routed_experts": 8,
        "moe_intermediate_size": 24,
        "first_k_dense_replace": 1,
        "kv_lora_rank": 16,
        "q_lora_rank": 24,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 12,
    }
)
GROUPS = {"n_group": 4, "topk_group": 2}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
    "mscale": 0.7,
    "mscale_all_dim": 1.2,
    "beta_fast": 8.0,
}
OSS_YARN = {
    "rope_type": "yarn",
    "rope_theta": 150_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
    "truncate": False,
    "beta_fast": 8.0,
}

CONFIGS = {
    "mixtral": lambda: transformers.MixtralConfig(**SIZES, **MIXTURE, num_local_experts=4),
    "mixtral sliding tied": lambda: transformers.MixtralConfig(
        **SIZES, **MIXTURE, num_local_experts=4, head_dim=16, sliding_window=11, tie_word_embeddings=True
    ),
    "qwen2_moe": lambda: transformers.Qwen2MoeConfig(
        **SIZES, **QWEN, shared_expert_intermediate_size=40, mlp_only_layers=[0]
    ),
    "qwen2_moe sliding": lambda: transformers.Qwen2MoeConfig(
        **SIZES,
        **QWEN | {"norm_topk_prob": False},
        shared_expert_intermediate_size=40,
        decoder_sparse_step=2,
        use_sliding_window=True,
        sliding_window=9,
        max_window_layers=2,
    ),
    "qwen3_moe": lambda: transformers.Qwen3MoeConfig(**SIZES, **QWEN, head_dim=16, mlp_only_layers=[1]),
    "qwen3_moe sliding": lambda: transformers.Qwen3MoeConfig(
        **SIZES, **QWEN | {"norm_topk_prob": False}, head_dim=8, use_sliding_window=True, sliding_window=9
    ),
    "deepseek_v2": lambda: transformers.DeepseekV2Config(
        **DEEPSEEK, **GROUPS, topk_method="group_limited_greedy", routed_scaling_factor=1.5, rope_parameters=YARN
    ),
    "deepseek_v2 lite": lambda: transformers.DeepseekV2Config(
        **DEEPSEEK | {"q_lora_rank": None}, attention_bias=True, mlp_bias=True
    ),
    "deepseek_v3": lambda: transformers.DeepseekV3Config(**DEEPSEEK, **GROUPS, rope_parameters=YARN),
    "deepseek_v3 halves": lambda: transformers.DeepseekV3Config(
        **DEEPSEEK | {"q_lora_rank": None}, n_group=1, topk_group=1, rope_interleave=False, norm_topk_prob=False
    ),
    "gpt_oss": lambda: transformers.GptOssConfig(
        **SIZES, **MIXTURE, num_local_experts=4, head_dim=16, sliding_window=9, rope_parameters=OSS_YARN
    ),
    "gpt_oss tight": lambda: transformers.GptOssConfig(
        **SIZES, **MIXTURE, num_local_experts=4, head_dim=8, sliding_window=9, swiglu_limit=0.5, swiglu_alpha=1.1
    ),
}


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request, tmp_path_factory):
    config = CONFIGS[request.param]()
    config._experts_implementation = "eager"
    return open_pair(tmp_path_factory.mktemp("pair"), config)


class TestSparseFamilies(FamilyChecks):
    """Each of CONFIGS."""


def test_we_save_the_tensors_that_transformers_saves(pair, tmp_path):
    save_model(tmp_path / "ours", pair.ours, TOKENIZER)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "ours", pair.directory))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


def test_the_config_survives_being_written_and_read(pair):
    written = json.loads(json.dumps(write_config(pair.ours.config)))
    assert read_config(written) == pair.ours.config
    assert written["model_type"] == pair.model_type
    assert written["architectures"] == [type(pair.theirs).__name__]
    dropping = replace(pair.ours.config, mixture=replace(pair.ours.config.mixture, capacity_factor=1.25))
    assert read_config(write_config(dropping)) == dropping


OWN = ModelConfig(
    vocab_size=61,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=48,
    mixture=Mixture(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24),
)
LATENT = LatentAttention(kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8)


@st.composite
def sparse_configs(draw):
    """Configs of all kinds, those that no published family can say among them."""
    flag, groups = st.booleans(), draw(st.sampled_from([1, 2]))
    mixture = Mixture(
        num_experts=4,
        num_experts_per_tok=draw(st.sampled_from([1, 2])),
        moe_intermediate_size=draw(st.sampled_from([24, 48])),
        shared_expert_intermediate_size=draw(st.sampled_from([0, 24, 36])),
        shared_expert_gate=draw(flag),
        n_group=groups,
        topk_group=draw(st.sampled_from([1, groups])),
        group_score=draw(st.sampled_from(["max", "top2_sum"])),
        scoring=draw(st.sampled_from(["softmax", "sigmoid", "softmax_topk"])),
        norm_topk_prob=draw(flag),
        correction_bias=draw(flag),
        router_bias=draw(flag),
        expert_bias=draw(flag),
        swiglu_limit=draw(st.sampled_from([0.0, 7.0])),
        capacity_factor=draw(st.sampled_from([0.0, 1.5])),
        routed_scaling_factor=draw(st.sampled_from([1.0, 2.5])),
        dense_layers=draw(st.sampled_from([(), (0,), (1,)])),
    )
    latent = LatentAttention(
        kv_lora_rank=16,
        qk_nope_head_dim=8,
        qk_rope_head_dim=8,
        v_head_dim=8,
        q_lora_rank=draw(st.sampled_from([0, 12])),
        rope_interleave=draw(flag),
    )
    bias = draw(flag)
    return replace(
        OWN,
        mixture=draw(st.sampled_from([mixture, mixture, None])),
        latent_attention=draw(st.sampled_from([None, latent])),
        head_dim=draw(st.sampled_from([0, 8, 16])),
        attention_bias=bias,
        attention_output_bias=draw(st.sampled_from([bias, False])),
        mlp_bias=draw(flag),
        qk_norm=draw(st.sampled_from(["none", "head"])),
        sliding_window=(window := draw(st.sampled_from([0, 9]))),
        layer_types=draw(st.sampled_from([(), ("sliding_attention", "full_attention")])) if window else (),
        attention_sinks=draw(flag),
    )


@settings(max_examples=300, deadline=None)
@given(config=sparse_configs())
def test_every_config_survives_being_written_as_json_and_read(config):
    assert read_config(json.loads(json.dumps(write_config(config)))) == config


SIGMOID = {"scoring": "sigmoid", "group_score": "top2_sum", "correction_bias": True}


@pytest.mark.parametrize(
    ("changes", "mixture", "model_type"),
    [
        ({}, {"moe_intermediate_size": 48}, "mixtral"),
        ({"qk_norm": "head"}, {"dense_layers": (1,)}, "qwen3_moe"),
        ({"attention_bias": True}, {"shared_expert_intermediate_size": 8, "shared_expert_gate": True}, "qwen2_moe"),
        ({"latent_attention": LATENT}, {"norm_topk_prob": False, "dense_layers": (0,)}, "deepseek_v2"),
        ({"latent_attention": LATENT}, SIGMOID | {"shared_expert_intermediate_size": 48}, "deepseek_v3"),
        ({"latent_attention": LATENT}, SIGMOID | {"shared_expert_intermediate_size": 36}, "vesalius"),
        ({"latent_attention": LATENT}, SIGMOID | {"dense_layers": (1,)}, "vesalius"),
        ({}, SIGMOID, "vesalius"),
        ({}, {"shared_expert_intermediate_size": 8}, "vesalius"),
        ({}, {"moe_intermediate_size": 48, "router_bias": True}, "vesalius"),
    ],
)
def test_a_config_is_written_as_the_family_that_can_say_it(changes, mixture, model_type):
    config = replace(OWN, **{"head_dim": 0} | changes, mixture=replace(OWN.mixture, **mixture))
    written = write_config(config)
    assert written["model_type"] == model_type
    assert read_config(json.loads(json.dumps(written))) == config


GPT_OSS_LIKE = {
    "moe_intermediate_size": 48,
    "scoring": "softmax_topk",
    "router_bias": True,
    "expert_bias": True,
    "swiglu_limit": 0.7,
}


@pytest.mark.parametrize(
    ("changes", "mixture", "model_type"),
    [
        ({"sliding_window": 9}, {"moe_intermediate_size": 48, "capacity_factor": 1.0}, "mixtral"),
        ({"qk_norm": "head", "head_dim": 16}, {"num_experts_per_tok": 3}, "qwen3_moe"),
        (
            {"latent_attention": replace(LATENT, q_lora_rank=12)},
            SIGMOID | {"n_group": 2, "topk_group": 2},
            "deepseek_v3",
        ),
        ({"attention_sinks": True, "sliding_window": 9}, GPT_OSS_LIKE, "gpt_oss"),
    ],
)
def test_transformers_computes_the_same_logits_from_a_model_that_was_made_here(tmp_path, changes, mixture, model_type):
    shared = {"shared_expert_intermediate_size": 24} if model_type == "deepseek_v3" else {}
    config = replace(OWN, **{"head_dim": 0} | changes, mixture=replace(OWN.mixture, **mixture | shared))
    config = replace(config, vocab_size=TOKENIZER.vocab_size)
    ours = Transformer(config).eval()
    randomise(ours, seed=1)
    save_model(tmp_path / "ours", ours, TOKENIZER)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    assert theirs.config.model_type == model_type
    tokens = sample_tokens(2, 40)
    with torch.no_grad():
        close(ours(tokens), theirs(tokens, use_cache=False).logits, 1e-5)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("deepseek_v2", {"topk_method": "noaux_tc"}, "topk_method is 'noaux_tc', expected one of greedy"),
        ("deepseek_v2", {"moe_layer_freq": 2}, "moe_layer_freq is 2, expected 1"),
        ("deepseek_v3", {"scoring_func": "softmax"}, "scoring_func is 'softmax', expected 'sigmoid'"),
        ("deepseek_v3", {"n_group": 3}, "8 experts in n_group = 3"),
        ("deepseek_v3", {"quantization_config": {"quant_method": "fp8"}}, "quantised by 'fp8'"),
        ("mixtral", {"num_local_experts": "8"}, "num_local_experts = '8', expected a whole number"),
        ("deepseek_v3", {"q_lora_rank": "24"}, "q_lora_rank = '24', expected a whole number"),
        ("deepseek_v3", {"routed_scaling_factor": "2"}, "routed_scaling_factor = '2', expected a number"),
        ("qwen3_moe", {"decoder_sparse_step": 0}, "decoder_sparse_step = 0, expected a list of layers and a number"),
        ("qwen2_moe", {"mlp_only_layers": "0"}, "mlp_only_layers = '0'"),
        ("mixtral", {"num_experts_per_tok": 5}, "reaches only 4 experts"),
        ("qwen3_moe", {"num_hidden_layers": None}, "num_hidden_layers = None, expected a whole number"),
    ],
)
def test_what_the_model_cannot_compute_is_refused_by_name(name, changes, message):
    with pytest.raises(UserError, match=message):
        read_config(CONFIGS[name]().to_dict() | changes)


def test_a_checkpoint_that_lacks_an_expert_is_refused(tmp_path):
    pair = open_pair(tmp_path, CONFIGS["mixtral"]())
    path = pair.directory / "model.safetensors"
    weights = load_file(path)
    del weights["model.layers.1.block_sparse_moe.experts.3.w2.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks model\.layers\.1\.block_sparse_moe\.experts\.\d\.w2"):
        open_model(pair.directory)


@pytest.mark.parametrize(
    ("name", "tensor", "shape"),
    [
        ("mixtral", "model.layers.1.block_sparse_moe.experts.3.w2.weight", (32, 47)),
        ("deepseek_v2", "model.layers.1.self_attn.q_b_proj.weight", (63, 24)),
        ("deepseek_v2", "model.layers.1.self_attn.q_b_proj.weight", (64,)),
        ("deepseek_v3", "model.layers.1.self_attn.kv_a_proj_with_mqa.weight", (23, 32)),
        ("gpt_oss", "model.layers.1.mlp.experts.gate_up_proj", (4, 32, 95)),
        ("gpt_oss", "model.layers.1.mlp.experts.gate_up_proj", (4,)),
    ],
)
def test_misshaped_tensors_are_refused(tmp_path, name, tensor, shape):
    pair = open_pair(tmp_path, CONFIGS[name]())
    path = pair.directory / "model.safetensors"
    weights = load_file(path)
    assert tensor in weights
    save_file(weights | {tensor: torch.zeros(shape)}, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"model\.layers\.1\."):
        open_model(pair.directory)


def test_layers_behind_the_last_are_passed_over(tmp_path):
    pair = open_pair(tmp_path, CONFIGS["deepseek_v3"]())
    path = pair.directory / "model.safetensors"
    save_file(load_file(path) | {"model.layers.3.eh_proj.weight": torch.ones(2)}, path, metadata={"format": "pt"})
    check_logits(replace(pair, ours=open_model(pair.directory)[0]))


def test_in_bfloat16_the_correction_bias_keeps_its_precision(tmp_path):
    pair = open_pair(tmp_path, CONFIGS["deepseek_v3"]())
    bias = pair.theirs.model.layers[1].mlp.gate.e_score_correction_bias
    router = open_model(pair.directory, dtype=torch.bfloat16)[0].model.layers[1].mlp.gate
    assert router.weight.dtype == torch.bfloat16
    assert torch.equal(router.e_score_correction_bias, bias)


def test_mxfp4_is_unpacked_as_transformers_does(tmp_path):
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(256, (4, 6, 2, 16), generator=generator, dtype=torch.uint8)
    scales = torch.randint(110, 140, (4, 6, 2), generator=generator, dtype=torch.uint8)
    theirs = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)  # (N, in, out)
    assert torch.equal(unpack_mxfp4(blocks, scales).mT, theirs)
    config = replace(OWN, mixture=replace(OWN.mixture, num_experts=4))
    name = "model.layers.0.mlp.experts.gate_up_proj"
    ours = GPT_OSS.to_ours({name + "_blocks": blocks, name + "_scales": scales}, config)
    assert torch.equal(ours["model.layers.0.mlp.experts.gate_proj"], theirs.mT[:, 0::2])
    assert torch.equal(ours["model.layers.0.mlp.experts.up_proj"], theirs.mT[:, 1::2])
    published = CONFIGS["gpt_oss"]().to_dict()
    assert read_config(published | {"quantization_config": {"quant_method": "mxfp4"}}) == read_config(published)


def test_mxfp4_blocks_without_their_scales_are_refused():
    with pytest.raises(UserError, match="expected bytes, 16 for each scale"):
        unpack_mxfp4(torch.zeros(4, 6, 2, 16, dtype=torch.uint8), torch.zeros(4, 6, 3, dtype=torch.uint8))


def test_experts_of_sharded_files_are_found(tmp_path):
    pair = open_pair(tmp_path, CONFIGS["qwen3_moe"](), max_shard_size="40KB")
    shards = sorted(pair.directory.glob("model-*.safetensors"))
    assert len(shards) > 2
    with safe_open(shards[0], "pt") as file:
        assert not all("experts" in name for name in file.keys())  # noqa: SIM118  # the file object is no dict
    check_logits(pair)
