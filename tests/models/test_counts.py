"""Counts from the config alone agree with the built model, with torch's FLOP counter, and with what autograd really
saves.
"""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vesalius.models.config import ModelConfig
from vesalius.models.config_sections import LatentAttention, Mixture
from vesalius.models.counts import count_active_parameters, count_bytes, count_flops, count_parameters
from vesalius.models.presets import PRESETS, by_name
from vesalius.models.transformer import Transformer

SHAPE = {
    "vocab_size": 101,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}
VARIANTS = {
    "plain": {},
    "grouped": {"num_key_value_heads": 2, "qk_norm": "head"},
    "wide heads": {"head_dim": 32, "tie_word_embeddings": False},
    "gpt2": {"norm": "layer", "position": "learned", "mlp": "plain", "hidden_act": "gelu"},
    "biases": {"attention_bias": True, "attention_output_bias": True, "mlp_bias": True},
    "squared relu": {"mlp": "plain", "hidden_act": "relu2"},
    "gated relu": {"hidden_act": "relu"},
    "plain mlp bias": {"mlp": "plain", "mlp_bias": True, "hidden_act": "relu"},
    "post-norm": {"block": "post", "qk_norm": "full"},
    "sandwich": {"block": "sandwich", "norm": "layer"},
    "parallel": {"block": "parallel", "norm": "layer", "mlp": "plain", "partial_rotary_factor": 0.5},
    "embedding norm": {"embedding_norm": True, "norm": "layer", "position": "none"},
    "multipliers": {"embedding_multiplier": 2.0, "residual_multiplier": 0.5, "attention_multiplier": 0.1},
    "soft cap": {"attn_logit_softcapping": 30.0, "num_key_value_heads": 2},
}
LATENT = LatentAttention(kv_lora_rank=12, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=6)
MIXTURE = Mixture(num_experts=5, num_experts_per_tok=2, moe_intermediate_size=24)
WEIGHTS = {
    "windows": {"sliding_window": 5},
    "offset norm": {"norm_offset": True, "qk_norm": "head"},
    "sinks": {"attention_sinks": True},
    "alibi": {"position": "alibi"},
    "latent": {"latent_attention": LATENT},
    "latent queries": {"latent_attention": replace(LATENT, q_lora_rank=10), "attention_bias": True},
    "mixture": {"mixture": MIXTURE, "tie_word_embeddings": False},
    "shared expert": {
        "mixture": replace(MIXTURE, shared_expert_intermediate_size=16, shared_expert_gate=True, dense_layers=(0,))
    },
    "biases in experts": {"mixture": replace(MIXTURE, router_bias=True, expert_bias=True, correction_bias=True)},
    "shared expert with bias": {"mixture": replace(MIXTURE, shared_expert_intermediate_size=16), "mlp_bias": True},
}
"""Variants whose activations are only estimated."""


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def config(request):
    return ModelConfig(**SHAPE, **request.param)


@pytest.mark.parametrize("settings", [*VARIANTS.values(), *WEIGHTS.values()], ids=[*VARIANTS, *WEIGHTS])
def test_parameters_equal_the_built_models(settings):
    config = ModelConfig(**SHAPE, **settings)
    model = Transformer(config)
    parts = count_parameters(config)
    assert parts.total == sum(p.numel() for p in model.parameters())
    assert parts.mlp == sum(p.numel() for name, p in model.named_parameters() if ".mlp." in name)
    assert parts.attention == sum(p.numel() for name, p in model.named_parameters() if ".self_attn." in name)


@pytest.mark.parametrize("settings", [*VARIANTS.values(), *WEIGHTS.values()], ids=[*VARIANTS, *WEIGHTS])
def test_operations_equal_torchs_flop_counter(settings):
    config = ModelConfig(**SHAPE, **settings)
    tokens = torch.randint(0, 101, (2, 16))
    model = Transformer(config)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(tokens)
    assert count_flops(config, context=16).total * tokens.numel() == counter.get_total_flops()


def test_of_a_mixture_only_the_experts_in_use_are_active():
    config = ModelConfig(**SHAPE, mixture=replace(MIXTURE, dense_layers=(1,)))
    idle = (MIXTURE.num_experts - MIXTURE.num_experts_per_tok) * 3 * 64 * MIXTURE.moe_intermediate_size
    assert count_parameters(config).total - count_active_parameters(config).total == 2 * idle
    dense = ModelConfig(**SHAPE)
    assert count_active_parameters(dense) == count_parameters(dense)


def test_the_cache_of_latent_attention_is_narrow():
    bytes_of = count_bytes(ModelConfig(**SHAPE, latent_attention=LATENT), batch_rows=1, context=8)
    assert bytes_of.kv_cache == 3 * (12 + 4) * 32 * 4


def test_a_backward_pass_costs_twice_the_forward(config):
    tokens = torch.randint(0, 101, (2, 16))
    model = Transformer(config)
    # what torch's counter does not know
    in_place = {torch.ops.aten.baddbmm_: lambda total, a, b, **_: 2 * a[0] * a[1] * a[2] * b[2]}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        model(tokens).sum().backward()
    assert 3 * count_flops(config, context=16).total * tokens.numel() == counter.get_total_flops()


def test_activation_bytes_are_those_that_autograd_saves(config):
    model, tokens = Transformer(config), torch.randint(0, 101, (3, 16))
    kept, weights = {}, {p.untyped_storage().data_ptr() for p in model.parameters()}

    def remember(tensor):
        storage = tensor.untyped_storage()
        if (
            storage.data_ptr() not in weights and tensor.is_floating_point() and tensor.shape[0] != 1
        ):  # not the shared rope table
            kept[storage.data_ptr()] = storage  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        logits = model(tokens)
    saved = sum(storage.nbytes() for storage in kept.values()) + logits.nbytes
    assert count_bytes(config, batch_rows=3, context=16).activations == saved


def test_optimizer_bytes_equal_torchs_adamw_state(config):
    model = Transformer(config)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randint(0, 101, (1, 32))).sum().backward()
    optimizer.step()
    held = sum(t.nbytes for state in optimizer.state.values() for t in state.values() if t.ndim)
    assert count_bytes(config, batch_rows=1, context=8).optimizer == held


def test_a_published_model_has_its_published_size():
    """SmolLM2-135M has 134,515,008 parameters and Llama-3-8B 8,030,261,248 (their model cards)."""
    assert count_parameters(by_name("smollm2-135m", vocab_size=49152)).total == 134_515_008
    assert count_parameters(by_name("llama3-8b", vocab_size=128256)).total == 8_030_261_248


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_valid_config(name):
    assert count_flops(by_name(name, vocab_size=4096), context=256).total > 0
