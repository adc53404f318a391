"""Files with experts, written by the gguf package from models of transformers as llama.cpp's converters do: they open
with transformers' logits, in every form that such files have had.
"""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers
from family_checks import SIZES, close, randomise, sample_tokens
from gguf_models import TOKENIZER, model_named

from vesalius.compress.quantised_experts import QuantisedExperts
from vesalius.core.errors import UserError
from vesalius.hub.gguf.export import export_gguf
from vesalius.hub.gguf.model import open_gguf
from vesalius.hub.gguf.reader import read_gguf
from vesalius.hub.gguf.writer import write_gguf
from vesalius.hub.unpacking import unpacked
from vesalius.kernels.block_formats import BlockTensor
from vesalius.tokenizers.gguf.writing import gguf_metadata_of

MIXTURE = {"num_experts_per_tok": 2, "vocab_size": TOKENIZER.vocab_size}
QWEN = MIXTURE | {"num_experts": 4, "moe_intermediate_size": 24}
DEEPSEEK = {
    **SIZES, **MIXTURE, "num_key_value_heads": 4, "n_routed_experts": 8, "moe_intermediate_size": 24,
    "first_k_dense_replace": 1, "kv_lora_rank": 16, "q_lora_rank": 24, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
    "v_head_dim": 12,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 32, "mscale": 0.7,
    "mscale_all_dim": 0.7,
}  # fmt: skip
OSS_YARN = {
    "rope_type": "yarn", "rope_theta": 150_000.0, "factor": 4.0, "original_max_position_embeddings": 32,
    "truncate": False,
}  # fmt: skip

CONFIGS = {
    "llama": lambda: transformers.MixtralConfig(**SIZES | MIXTURE, num_local_experts=4),
    "qwen2moe": lambda: transformers.Qwen2MoeConfig(**SIZES | QWEN, shared_expert_intermediate_size=40),
    "qwen3moe": lambda: transformers.Qwen3MoeConfig(**SIZES | QWEN, head_dim=16, norm_topk_prob=True),
    "deepseek2": lambda: transformers.DeepseekV3Config(**DEEPSEEK, n_group=4, topk_group=2, rope_parameters=YARN),
    "gpt-oss": lambda: transformers.GptOssConfig(
        **SIZES | MIXTURE, num_local_experts=4, head_dim=16, sliding_window=9, rope_parameters=OSS_YARN
    ),
}

KEYS = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
    "attention.sliding_window": "sliding_window",
    "attention.q_lora_rank": "q_lora_rank",
    "attention.kv_lora_rank": "kv_lora_rank",
    "leading_dense_block_count": "first_k_dense_replace",
    "expert_shared_count": "n_shared_experts",
    "expert_group_count": "n_group",
    "expert_group_used_count": "topk_group",
    "expert_weights_scale": "routed_scaling_factor",
    "expert_weights_norm": "norm_topk_prob",
}
"""What converters write of a config.json, by the names of both sides."""


def metadata_of(architecture, config):
    """The keys of one file, as the converter of its family says them."""
    rope = config.rope_parameters
    values = {key: value for key, name in KEYS.items() if (value := getattr(config, name, None)) is not None}
    values["expert_count"] = next(
        value for name in ("num_local_experts", "num_experts", "n_routed_experts") if (value := vars(config).get(name))
    )
    values["rope.freq_base"] = rope["rope_theta"]
    if architecture in ("qwen3moe", "gpt-oss"):
        values["attention.key_length"] = values["attention.value_length"] = config.head_dim
    if architecture == "gpt-oss":
        values["expert_feed_forward_length"] = config.intermediate_size
    else:
        values.pop("attention.sliding_window", None)
    if architecture == "deepseek2":
        rank, nope, turning = config.kv_lora_rank, config.qk_nope_head_dim, config.qk_rope_head_dim
        values |= {"attention.head_count_kv": 1, "expert_gating_func": 2, "rope.dimension_count": turning}
        values |= {"attention.key_length": rank + turning, "attention.value_length": rank}
        values |= {"attention.key_length_mla": nope + turning, "attention.value_length_mla": config.v_head_dim}
        values["rope.scaling.yarn_log_multiplier"] = 0.1 * rope["mscale_all_dim"]
    if rope["rope_type"] == "yarn":
        values |= {"rope.scaling.type": "yarn", "rope.scaling.factor": rope["factor"]}
        values["rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
    named = {f"{architecture}.{key}": value for key, value in values.items()}
    return {"general.architecture": architecture} | named | gguf_metadata_of(TOKENIZER, config.vocab_size)


def tensors_of(architecture, theirs):
    """The tensors of one file under converters' names: llama.cpp's own table of names says most of them."""
    config, kind = theirs.config, {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}[architecture]
    table = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    found = {}
    for name, tensor in theirs.state_dict().items():
        for part, value in parts_of(architecture, name, tensor.float(), config):
            stem, dot, ending = part.rpartition(".")
            if ending not in ("weight", "bias"):
                stem, dot, ending = part, ".", "weight"
            found[table.get_name(stem) + dot + ending] = value.contiguous().numpy()
    return found


def parts_of(architecture, name, tensor, config):
    """What converters make of one tensor of transformers' modules: its parts, each under a name of a checkpoint."""
    if "gate_up_proj" in name:
        for part, picked in zip(("gate", "up"), halves_of(architecture, tensor), strict=True):
            bias = name.endswith("_bias")
            yield name.removesuffix("_bias").replace("gate_up", part) + (".bias" if bias else ".weight"), picked
    elif name.endswith("experts.down_proj"):
        yield name + ".weight", tensor.mT if architecture == "gpt-oss" else tensor
    elif name.endswith("experts.down_proj_bias"):
        yield name.replace("_bias", ".bias"), tensor
    elif name.endswith("kv_b_proj.weight"):
        keys, values = tensor.unflatten(0, (config.num_attention_heads, -1)).split((8, 12), dim=1)
        yield name.replace("kv_b_proj", "k_b_proj"), keys.mT
        yield name.replace("kv_b_proj", "v_b_proj"), values
    elif name.endswith("e_score_correction_bias"):
        yield name.replace("_correction_bias", "_correction.bias"), tensor
    elif architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
        heads = tensor.shape[0] // 8
        yield name, tensor.reshape(heads, 2, 4, -1).swapaxes(1, 2).reshape(tensor.shape)
    else:
        yield name, tensor.squeeze(0) if name.endswith("shared_expert_gate.weight") else tensor


def halves_of(architecture, tensor):
    if architecture != "gpt-oss":
        return tensor.chunk(2, dim=1)
    rows = tensor.mT if tensor.dim() == 3 else tensor  # (N, 2 F, D), gate and up by turns
    return rows[:, 0::2], rows[:, 1::2]


def written(path: Path, architecture: str, metadata, tensors) -> Path:
    """The file, by the gguf package."""
    writer = gguf.GGUFWriter(path, architecture)
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    for key, value in metadata.items():
        if key != "general.architecture":
            writer.add_array(key, value) if isinstance(value, list) else kinds[type(value)](key, value)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def model_of(architecture):
    torch.manual_seed(0)
    config = CONFIGS[architecture]()
    config._attn_implementation = config._experts_implementation = "eager"
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    randomise(theirs, seed=0)
    return theirs


def check(path, theirs):
    """The file has transformers' logits, read at once and behind the cache."""
    tokens = sample_tokens(1, 48)
    with torch.no_grad():
        close(open_gguf(path)[0](tokens), theirs(tokens, use_cache=False).logits, 1e-4)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_a_converted_model_has_the_logits_of_transformers(architecture, tmp_path):
    theirs = model_of(architecture)
    metadata, tensors = metadata_of(architecture, theirs.config), tensors_of(architecture, theirs)
    check(written(tmp_path / "m.gguf", architecture, metadata, tensors), theirs)


def test_files_with_a_tensor_for_each_expert_open_as_well(tmp_path):
    theirs = model_of("llama")
    tensors = tensors_of("llama", theirs)
    for name in [name for name in tensors if "_exps." in name]:
        stack = tensors.pop(name)
        tensors |= {name.replace("_exps.", f".{i}."): np.ascontiguousarray(one) for i, one in enumerate(stack)}
    assert "blk.2.ffn_gate.3.weight" in tensors
    check(written(tmp_path / "m.gguf", "llama", metadata_of("llama", theirs.config), tensors), theirs)
    del tensors["blk.2.ffn_gate.2.weight"]
    with pytest.raises(UserError, match=r"experts of blk\.2\.ffn_gate_exps\.weight are not all there"):
        open_gguf(written(tmp_path / "bad.gguf", "llama", metadata_of("llama", theirs.config), tensors))


def test_files_with_joined_keys_and_values_open_as_well(tmp_path):
    theirs = model_of("deepseek2")
    metadata, tensors = metadata_of("deepseek2", theirs.config), tensors_of("deepseek2", theirs)
    for i in range(3):
        joined = theirs.state_dict()[f"model.layers.{i}.self_attn.kv_b_proj.weight"]
        tensors[f"blk.{i}.attn_kv_b.weight"] = joined.numpy()
        del tensors[f"blk.{i}.attn_k_b.weight"], tensors[f"blk.{i}.attn_v_b.weight"]
    for key in ("key_length_mla", "value_length_mla"):
        metadata["deepseek2.attention." + key.removesuffix("_mla")] = metadata.pop("deepseek2.attention." + key)
    metadata["deepseek2.attention.head_count_kv"] = 4
    check(written(tmp_path / "m.gguf", "deepseek2", metadata, tensors), theirs)


def changed(source, target, change):
    file = read_gguf(source)
    change(file.metadata, file.tensors)
    write_gguf(target, file.metadata, file.tensors)
    return target


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, t: t.pop("blk.0.attn_k_b.weight"), r"attn_v_b.weight without blk.0.attn_k_b.weight"),
        (lambda m, t: t.pop("blk.0.attn_v_b.weight"), r"attn_v_b.weight is None, expected \(4, 24, 32\)"),
        (lambda m, t: t.pop("blk.1.ffn_up_exps.weight"), "lacks model.layers.1.mlp.experts.up_proj"),
        (lambda m, t: m.update({"deepseek2.expert_count": 4}), r"expected \(4, "),
        (lambda m, t: m.update({"deepseek2.expert_gating_func": 7}), "expert_gating_func is 7"),
        (lambda m, t: m.update({"deepseek2.expert_weights_norm": 7}), "expected true or false"),
        (lambda m, t: m.update({"deepseek2.rope.dimension_count": 60}), "qk_nope_head_dim must be at least 1"),
        (lambda m, t: m.update({"general.architecture": "qwen2", "qwen2.expert_count": 4}), "holds experts"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path, change, message):
    export_gguf(tmp_path / "m.gguf", model_named("deepseek2"), TOKENIZER, dtype="f32")
    with pytest.raises(UserError, match=message) as caught:
        open_gguf(changed(tmp_path / "m.gguf", tmp_path / "bad.gguf", change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["llama, mixtral", "qwen2moe", "qwen3moe", "deepseek2", "gpt-oss"])
def test_experts_stay_in_their_blocks_and_give_the_sums_of_what_they_stand_for(name, tmp_path):
    export_gguf(tmp_path / "m.gguf", model_named(name), TOKENIZER, dtype="q8_0")
    model, _ = open_gguf(tmp_path / "m.gguf")
    experts = model.model.layers[-1].mlp.experts
    assert isinstance(experts.down_proj, QuantisedExperts)
    stored = read_gguf(tmp_path / "m.gguf").tensors["blk.3.ffn_down_exps.weight"]
    assert torch.equal(experts.down_proj.blocks().blocks, stored.blocks)
    rows, exact = torch.randn(12, 64), unpacked(model).model.layers[-1].mlp
    with torch.no_grad():
        routing = exact.gate(rows)
        expected = exact.experts(rows, routing)
        found = experts(rows, routing)
    assert (found - expected).abs().max() < 0.03 * expected.abs().max()  # activations are rounded to int8


def test_mxfp4_experts_are_held_in_blocks_with_the_same_numbers(tmp_path):
    export_gguf(tmp_path / "f32.gguf", model_named("gpt-oss"), TOKENIZER, dtype="f32")
    name, codes = "blk.1.ffn_up_exps.weight", torch.randint(256, (6, 32, 2, 17), dtype=torch.uint8)
    codes[..., 0] = 120 + codes[..., 0] % 4
    stack = BlockTensor.of("mxfp4", codes.flatten(2))
    model, _ = open_gguf(changed(tmp_path / "f32.gguf", tmp_path / "m.gguf", lambda m, t: t.update({name: stack})))
    assert torch.equal(model.model.layers[1].mlp.experts.up_proj.dequantise(), stack.dequantise())
    codes[..., 0] = 250
    with pytest.raises(UserError, match="mxfp4 weights that cannot be"):
        open_gguf(changed(tmp_path / "f32.gguf", tmp_path / "m.gguf", lambda m, t: t.update({name: stack})))
