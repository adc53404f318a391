"""The one Transformer equals transformers' models with the same weights: logits and every gradient, at 1e-5."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from vesalius.core.errors import UserError
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer

V = 101
SHAPE = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
TOKENS = torch.randint(0, V, (2, 17), generator=torch.Generator().manual_seed(1))


def llama(**changes):
    settings = {
        "intermediate_size": 96,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    }
    settings |= SHAPE | changes
    peer = LlamaForCausalLM(LlamaConfig(vocab_size=V, **settings)).eval()
    if "attention_bias" in settings:
        settings["attention_output_bias"] = settings["attention_bias"]
    return peer, peer.state_dict(), ModelConfig(vocab_size=V, **settings)


def qwen3():
    settings = {
        "intermediate_size": 96,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "tie_word_embeddings": False,
        **SHAPE,
    }
    peer = Qwen3ForCausalLM(Qwen3Config(vocab_size=V, rms_norm_eps=1e-6, **settings)).eval()
    for name, weight in peer.named_parameters():
        if "norm" in name:  # ones would hide a norm that is not applied
            torch.nn.init.uniform_(weight, 0.5, 1.5)
    return peer, peer.state_dict(), ModelConfig(vocab_size=V, qk_norm="head", rms_norm_eps=1e-6, **settings)


def gpt2():
    peer = GPT2LMHeadModel(GPT2Config(vocab_size=V, n_embd=64, n_layer=3, n_head=4, n_positions=32)).eval()
    config = ModelConfig(
        vocab_size=V, **SHAPE, max_position_embeddings=32, norm="layer", position="learned", mlp="plain",
        hidden_act="gelu_tanh", attention_bias=True, attention_output_bias=True, mlp_bias=True,
    )  # fmt: skip
    return peer, gpt2_weights(peer.state_dict()), config


def gpt2_weights(state):
    """GPT-2's names and transposed, fused matrices as ours."""
    names = {
        "wte": "embed_tokens", "wpe": "embed_positions", "ln_f": "norm", ".h.": ".layers.", "ln_1": "input_layernorm",
        "ln_2": "post_attention_layernorm", "attn.c_proj": "self_attn.o_proj", "c_fc": "up_proj", "mlp.c_proj":
        "mlp.down_proj", "transformer": "model",
    }  # fmt: skip
    weights = {}
    for name, tensor in state.items():
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        if name.startswith("model.layers") and "norm" not in name and name.endswith("weight"):
            tensor = tensor.T
        if "c_attn" in name:
            for part, piece in zip("qkv", tensor.chunk(3, dim=0), strict=True):
                weights[name.replace("attn.c_attn", f"self_attn.{part}_proj")] = piece
        else:
            weights[name] = tensor
    return weights


PEERS = {
    "multi-head": lambda: llama(),
    "grouped": lambda: llama(num_key_value_heads=2, tie_word_embeddings=True),
    "multi-query, own head width": lambda: llama(num_key_value_heads=1, head_dim=32),
    "biases": lambda: llama(attention_bias=True, mlp_bias=True),
    "rope base": lambda: with_rope_base(),
    "qwen3": qwen3,
    "gpt2": gpt2,
}


@pytest.fixture(params=PEERS.values(), ids=PEERS.keys())
def pair(request):
    torch.manual_seed(0)
    peer, weights, config = request.param()
    ours = Transformer(config)
    ours.load_state_dict(weights)
    return ours, peer


def with_rope_base():
    rope = {"rope_type": "default", "rope_theta": 500.0}
    peer = LlamaForCausalLM(
        LlamaConfig(vocab_size=V, intermediate_size=96, rms_norm_eps=1e-6, rope_parameters=rope, **SHAPE)
    )
    config = ModelConfig(
        vocab_size=V, intermediate_size=96, rms_norm_eps=1e-6, rope_theta=500.0, tie_word_embeddings=False, **SHAPE
    )
    return peer.eval(), peer.state_dict(), config


def test_logits_equal_transformers(pair):
    ours, peer = pair
    torch.testing.assert_close(ours(TOKENS), peer(TOKENS).logits, atol=1e-5, rtol=1e-5)


def test_gradients_equal_transformers(pair):
    ours, peer = pair
    for logits in (ours(TOKENS), peer(TOKENS).logits):
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten()).backward()
    theirs = {name: p.grad for name, p in peer.named_parameters()}
    if isinstance(peer, GPT2LMHeadModel):
        theirs = gpt2_weights(theirs)
    compared = 0
    for name, p in ours.named_parameters():
        torch.testing.assert_close(p.grad, theirs[name], atol=1e-5, rtol=1e-5, msg=name)
        compared += 1
    assert compared == len(theirs)


def tiny(**changes):
    return Transformer(ModelConfig(vocab_size=V, **SHAPE, **changes)).eval()


def test_packed_documents_do_not_see_each_other():
    model = tiny(qk_norm="head")
    first, second = TOKENS[:1, :7], TOKENS[1:, :10]
    positions = torch.cat((torch.arange(7), torch.arange(10))).unsqueeze(0)
    packed = model(torch.cat((first, second), dim=1), positions)
    alone = torch.cat((model(first), model(second)), dim=1)
    torch.testing.assert_close(packed, alone, atol=1e-6, rtol=1e-5)


def test_positions_that_only_count_up_change_nothing():
    model, positions = tiny(), torch.arange(17).expand(2, 17)
    torch.testing.assert_close(model(TOKENS, positions), model(TOKENS), atol=1e-6, rtol=1e-5)


def test_no_logit_depends_on_a_later_token():
    model, changed = tiny(), TOKENS.clone()
    changed[:, 10:] = 0
    torch.testing.assert_close(model(changed)[:, :10], model(TOKENS)[:, :10])


def test_logits_are_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert tiny()(TOKENS).dtype == torch.float32


def test_softcapped_logits_stay_within_the_cap():
    weights = tiny().state_dict()
    capped, free = tiny(final_logit_softcapping=0.5), tiny()
    capped.load_state_dict(weights)
    torch.testing.assert_close(capped(TOKENS), 0.5 * torch.tanh(free(TOKENS) / 0.5))


def test_dropout_acts_only_in_training():
    model = tiny(dropout=0.5)
    torch.testing.assert_close(model(TOKENS), model(TOKENS))
    model.train()
    assert not torch.allclose(model(TOKENS), model(TOKENS))


def test_the_same_seed_gives_the_same_weights():
    config = ModelConfig(vocab_size=V, **SHAPE)
    first, again, other = (Transformer(config, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_building_a_model_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    tiny()
    assert torch.equal(before, torch.get_rng_state())


def test_residual_branches_start_narrower_with_depth():
    deep = Transformer(ModelConfig(vocab_size=V, hidden_size=128, num_hidden_layers=8, num_attention_heads=4))
    ratio = deep.model.layers[0].self_attn.o_proj.weight.std() / deep.model.layers[0].self_attn.q_proj.weight.std()
    assert ratio.item() == pytest.approx(1 / 4, rel=0.05)


def test_a_row_longer_than_the_context_is_refused():
    with pytest.raises(UserError, match="17 tokens in a row, but the model's context is 16"):
        tiny(max_position_embeddings=16)(TOKENS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_key_value_heads": 3}, "multiple of num_key_value_heads"),
        ({"hidden_size": 0}, "hidden_size must be at least 1, got 0"),
        ({"hidden_act": "sillu"}, "did you mean 'silu'"),
        ({"head_dim": 7}, "head_dim must be even, got 7"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"hiden_size": 4}, "unknown model setting 'hiden_size', did you mean 'hidden_size'"),
    ],
)
def test_impossible_shapes_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        ModelConfig.from_dict({"vocab_size": V, **SHAPE, **settings})


def test_an_incomplete_config_is_refused():
    with pytest.raises(UserError, match="incomplete model config"):
        ModelConfig.from_dict({"vocab_size": V})
