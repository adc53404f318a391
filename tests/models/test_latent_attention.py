"""Latent attention equals transformers', with and without a cache, and the cache holds one vector a token."""

from dataclasses import replace

import pytest
import torch
from transformers import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention, DeepseekV3RotaryEmbedding

from vesalius.core.errors import UserError
from vesalius.infer.cache import LatentCache, cache_for
from vesalius.infer.engine import Engine
from vesalius.infer.params import SamplingParams
from vesalius.models.attention import Context
from vesalius.models.config import ModelConfig
from vesalius.models.config_sections import LatentAttention, RopeScaling
from vesalius.models.latent_attention import MultiHeadLatentAttention
from vesalius.models.positions import rotary
from vesalius.models.transformer import Transformer

SIZES = LatentAttention(kv_lora_rank=10, qk_nope_head_dim=6, qk_rope_head_dim=8, v_head_dim=5)
CONFIG = ModelConfig(
    vocab_size=31,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=20,
    max_position_embeddings=64,
    initializer_range=0.3,
    latent_attention=SIZES,
)
YARN = RopeScaling(
    kind="yarn", factor=4.0, original_max_position_embeddings=16, mscale=0.7, mscale_all_dim=1.3, beta_fast=8.0
)
VARIANTS = {
    "plain": CONFIG,
    "compressed queries": replace(CONFIG, latent_attention=replace(SIZES, q_lora_rank=9)),
    "yarn": replace(CONFIG, rope_scaling=YARN),
    "biases": replace(
        CONFIG,
        attention_bias=True,
        attention_output_bias=True,
        latent_attention=replace(SIZES, q_lora_rank=9, v_head_dim=14),
    ),
}


def pair(config):
    """Our layer and transformers' with the same weights; theirs in the pairing of half heads, as ours are."""
    m = config.latent_attention
    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    if scaling := config.rope_scaling:
        rope |= {"rope_type": "yarn", "factor": scaling.factor, "beta_fast": scaling.beta_fast}
        rope |= {"mscale": scaling.mscale, "mscale_all_dim": scaling.mscale_all_dim}
        rope |= {"original_max_position_embeddings": scaling.original_max_position_embeddings}
    published = DeepseekV3Config(
        hidden_size=config.hidden_size,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_attention_heads,
        kv_lora_rank=m.kv_lora_rank,
        q_lora_rank=m.q_lora_rank or None,
        qk_nope_head_dim=m.qk_nope_head_dim,
        qk_rope_head_dim=m.qk_rope_head_dim,
        v_head_dim=m.v_head_dim,
        attention_bias=config.attention_bias,
        max_position_embeddings=config.max_position_embeddings,
        rope_interleave=False,
        rope_parameters=rope,
        attn_implementation="eager",
    )
    ours, theirs = MultiHeadLatentAttention(config, 0), DeepseekV3Attention(published, 0)
    generator = torch.Generator().manual_seed(0)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.4, generator=generator)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs, DeepseekV3RotaryEmbedding(published)


@pytest.mark.parametrize("name", VARIANTS)
def test_equals_transformers_forward_and_backward(name):
    config = VARIANTS[name]
    ours, theirs, their_rope = pair(config)
    x = torch.randn(2, 17, config.hidden_size, generator=torch.Generator().manual_seed(1))
    positions = torch.arange(17).unsqueeze(0)
    hidden = torch.full((17, 17), -torch.inf).triu(1)[None, None]
    expected, _ = theirs(x, their_rope(x, positions), hidden)
    got = ours(x, Context(rope=rotary(config)(positions)))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    cotangent = torch.randn(got.shape, generator=torch.Generator().manual_seed(2))
    gradients = [
        torch.autograd.grad(out, list(m.parameters()), cotangent) for out, m in ((got, ours), (expected, theirs))
    ]
    for (label, _), one, other in zip(ours.named_parameters(), *gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4, msg=label)


@pytest.mark.parametrize("sizes", [[40], [1] * 40, [17, 1, 1, 9, 12], [1, 39]])
@pytest.mark.parametrize("name", VARIANTS)
def test_the_absorbed_path_over_the_cache_equals_the_plain_one(name, sizes):
    config = VARIANTS[name]
    model, cache = Transformer(config).eval(), cache_for(config, batch_size=2, capacity=3)
    tokens = torch.randint(31, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        parts = [model(part, cache.positions(part.shape[1]), cache) for part in tokens.split(sizes, dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), model(tokens), atol=1e-5, rtol=1e-5)


def test_documents_packed_into_a_row_do_not_see_each_other():
    model = Transformer(CONFIG).eval()
    tokens = torch.randint(31, (1, 12), generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([[*range(5), *range(7)]])
    with torch.no_grad():
        packed = model(tokens, positions)
        alone = torch.cat((model(tokens[:, :5]), model(tokens[:, 5:])), dim=1)
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-5)


def test_the_cache_holds_one_latent_vector_and_one_turned_key_a_token():
    cache = cache_for(CONFIG, batch_size=2, capacity=16)
    assert isinstance(cache, LatentCache)
    assert cache.nbytes == 2 * 2 * 16 * (10 + 8) * 4
    with torch.no_grad():
        Transformer(CONFIG)(torch.zeros(2, 17, dtype=torch.int64), cache.positions(17), cache)
    assert cache.nbytes == 2 * 2 * 32 * (10 + 8) * 4
    assert cache.length == 17


def test_rows_of_the_cache_can_change_places():
    model, cache = Transformer(CONFIG).eval(), cache_for(CONFIG, batch_size=2)
    tokens = torch.randint(31, (2, 9), generator=torch.Generator().manual_seed(0))
    swapped = tokens.flip(0)
    with torch.no_grad():
        model(tokens[:, :8], cache.positions(8), cache)
        cache.reorder(torch.tensor([1, 0]))
        last = model(swapped[:, 8:], cache.positions(1), cache)
        torch.testing.assert_close(last, model(swapped)[:, 8:], atol=1e-5, rtol=1e-5)


def test_the_engine_generates_by_the_latent_cache():
    model, ids = Transformer(CONFIG).eval(), [3, 1, 4]
    engine = Engine(model)
    assert engine.pool.pages[0].values is None
    steps = engine.stream(ids, SamplingParams(max_tokens=20, temperature=0.0))
    for step in steps:
        with torch.no_grad():
            assert step.id == int(model(torch.tensor([ids]))[0, -1].argmax())
        ids = [*ids, step.id]
    assert len(ids) == 23


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"kv_lora_rank": 0}, "kv_lora_rank must be at least 1, got 0"), ({"qk_rope_head_dim": 7}, "even, got 7")],
)
def test_sizes_that_cannot_be_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        replace(SIZES, **changes)
