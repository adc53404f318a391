"""Model directories: what we save opens in transformers, what transformers saves opens here, and what cannot be
opened says why."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import sentencepiece
import torch
import transformers
from safetensors.torch import load_file, save_file

from vesalius.core.errors import UserError, VesaliusError
from vesalius.core.run_directory import RunDirectory
from vesalius.hub import weights as hub_weights
from vesalius.hub.directory import open_model, save_model
from vesalius.hub.facts import facts_of
from vesalius.hub.unpacking import unpacked
from vesalius.models.config import ModelConfig
from vesalius.models.config_sections import Mixture
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.bpe import BPE, SPECIAL_TOKENS
from vesalius.tokenizers.tokenizer import Tokenizer

SPECIAL = {text: i for i, text in enumerate(SPECIAL_TOKENS)}
TOKENIZER = Tokenizer.from_bpe(BPE({bytes([b]): b + len(SPECIAL) for b in range(256)}, [], SPECIAL))
SIZES = {
    "vocab_size": TOKENIZER.vocab_size,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
TINY = ModelConfig(**SIZES)
TOKENS = torch.randint(TOKENIZER.vocab_size, (2, 17), generator=torch.Generator().manual_seed(0))
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]


def assert_same_logits(ours: Transformer, theirs: transformers.PreTrainedModel) -> None:
    with torch.no_grad():
        torch.testing.assert_close(ours(TOKENS), theirs(TOKENS).logits, atol=1e-5, rtol=1e-5)


def saved(path: Path, config: ModelConfig = TINY) -> Transformer:
    model = Transformer(config).eval()
    save_model(path, model, TOKENIZER)
    return model


@pytest.mark.parametrize(
    ("changes", "theirs"),
    [
        ({}, transformers.LlamaForCausalLM),
        (
            {"tie_word_embeddings": False, "attention_bias": True, "attention_output_bias": True},
            transformers.LlamaForCausalLM,
        ),
        ({"qk_norm": "head", "rope_theta": 5e5}, transformers.Qwen3ForCausalLM),
    ],
)
def test_transformers_opens_what_we_save(tmp_path, changes, theirs):
    ours = saved(tmp_path / "model", replace(TINY, **changes))
    opened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert type(opened) is theirs
    assert_same_logits(ours, opened)
    assert set(opened.generation_config.eos_token_id) == set(TOKENIZER.eos_ids)
    assert opened.generation_config.bos_token_id == TOKENIZER.bos_id


def test_transformers_opens_the_tokenizer_and_chat_template_that_we_save(tmp_path):
    saved(tmp_path / "model")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    assert theirs("naïve 🙂").input_ids == TOKENIZER.prompt_prefix + TOKENIZER.encode("naïve 🙂")
    assert theirs.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True) == TOKENIZER.chat(CHAT)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "config",
    [
        transformers.LlamaConfig(**SIZES, head_dim=8, rope_theta=777.0),
        transformers.LlamaConfig(**SIZES, head_dim=16, attention_bias=True, mlp_bias=True),
        transformers.Qwen3Config(**SIZES, head_dim=16, attention_bias=True),
    ],
)
def test_what_transformers_saves_opens_with_the_same_logits(tmp_path, config, tied):
    torch.manual_seed(0)
    config.tie_word_embeddings = tied
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    theirs.save_pretrained(tmp_path / "model")
    TOKENIZER.save(tmp_path / "model")
    ours, tokenizer = open_model(tmp_path / "model")
    assert_same_logits(ours, theirs)
    assert tokenizer.encode("Why?") == TOKENIZER.encode("Why?")


def test_shards_are_read_through_their_index(tmp_path):
    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**SIZES)).eval()
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    TOKENIZER.save(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    assert_same_logits(open_model(tmp_path)[0], theirs)


@pytest.mark.parametrize("changes", [{"position": "learned", "norm": "layer"}, {"final_logit_softcapping": 5.0}])
def test_a_model_that_no_family_can_say_opens_here_alone(tmp_path, changes):
    ours = saved(tmp_path / "model", replace(TINY, **changes))
    opened, _ = open_model(tmp_path / "model")
    assert opened.config == ours.config
    assert torch.equal(opened(TOKENS), ours(TOKENS))
    assert json.loads((tmp_path / "model/config.json").read_text())["model_type"] == "vesalius"


def test_a_tied_head_is_stored_once_and_stays_tied(tmp_path):
    saved(tmp_path / "model")
    assert "lm_head.weight" not in load_file(tmp_path / "model/model.safetensors")
    opened, _ = open_model(tmp_path / "model")
    assert opened.lm_head.weight is opened.model.embed_tokens.weight


def test_opened_weights_can_be_trained_and_the_file_stays_as_it_is(tmp_path):
    saved(tmp_path / "model")
    before = (tmp_path / "model/model.safetensors").read_bytes()
    opened, _ = open_model(tmp_path / "model")
    opened(TOKENS).sum().backward()
    torch.optim.SGD(opened.parameters(), lr=0.1).step()
    assert all(parameter.grad is not None for parameter in opened.parameters())
    assert (tmp_path / "model/model.safetensors").read_bytes() == before


def test_a_correction_bias_goes_with_the_weights_and_keeps_its_precision():
    mixture = Mixture(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, correction_bias=True)
    model = Transformer(replace(TINY, mixture=mixture))
    bias = torch.rand(4)
    model.model.layers[0].mlp.gate.e_score_correction_bias.copy_(bias)
    plain = unpacked(model, torch.bfloat16)
    assert torch.equal(plain.model.layers[0].mlp.gate.e_score_correction_bias, bias)
    assert plain.lm_head.weight.dtype == torch.bfloat16


def test_a_model_may_be_saved_over_the_directory_that_it_was_opened_from(tmp_path):
    ours = saved(tmp_path / "model")
    opened, tokenizer = open_model(tmp_path / "model")
    save_model(tmp_path / "model", opened, tokenizer)
    again, _ = open_model(tmp_path / "model")
    assert torch.equal(again(TOKENS), ours(TOKENS))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_weights_of_16_bits_are_kept_on_disk_and_computed_in_32(tmp_path):
    model = Transformer(TINY).eval().to(torch.bfloat16)
    save_model(tmp_path / "model", model, TOKENIZER)
    assert json.loads((tmp_path / "model/config.json").read_text())["dtype"] == "bfloat16"
    assert load_file(tmp_path / "model/model.safetensors")["model.norm.weight"].dtype == torch.bfloat16
    assert_same_logits(open_model(tmp_path / "model")[0], model_in_float32(tmp_path / "model"))


def model_in_float32(path: Path) -> transformers.PreTrainedModel:
    return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def test_generation_defaults_are_written_for_others(tmp_path):
    save_model(tmp_path / "model", Transformer(TINY), TOKENIZER, generation={"temperature": 0.7, "do_sample": True})
    theirs = transformers.GenerationConfig.from_pretrained(tmp_path / "model")
    assert (theirs.temperature, theirs.do_sample) == (0.7, True)


def test_a_run_directory_opens_through_its_model(tmp_path):
    run = RunDirectory.create(tmp_path / "run")
    run.recipe.write_text("")
    ours = saved(run.model)
    assert torch.equal(open_model(tmp_path / "run")[0](TOKENS), ours(TOKENS))


def test_a_run_that_is_not_finished_says_so(tmp_path):
    run = RunDirectory.create(tmp_path / "run")
    run.recipe.write_text("")
    with pytest.raises(UserError, match=r"no model yet.*--resume"):
        open_model(tmp_path / "run")


def test_a_directory_with_sentencepieces_own_file_opens(tmp_path):
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a cat and a dog"] * 9), model_writer=file, vocab_size=300, model_type="bpe",
        byte_fallback=True, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    peer = sentencepiece.SentencePieceProcessor(model_proto=file.getvalue())
    saved(tmp_path / "model", replace(TINY, vocab_size=300))
    (tmp_path / "model" / "tokenizer.json").unlink()
    (tmp_path / "model" / "tokenizer_config.json").unlink()
    (tmp_path / "model" / "tokenizer.model").write_bytes(file.getvalue())
    _, tokenizer = open_model(tmp_path / "model")
    assert tokenizer.encode("a dog and a cat") == peer.encode("a dog and a cat")
    assert facts_of(tmp_path / "model").tokenizer["tokens"] == peer.vocab_size()


def test_a_directory_beside_with_nearly_the_same_name_is_named(tmp_path):
    saved(tmp_path / "first")
    with pytest.raises(UserError, match=r"no model at .*frist, did you mean 'first'"):
        open_model(tmp_path / "frist")


def test_what_is_no_model_directory_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for name, message in {"file": "is a file", "empty": "has no config.json", "nothing/here": "no model at"}.items():
        with pytest.raises(UserError, match=message):
            open_model(tmp_path / name)


def edit_config(path: Path, **changes: object) -> None:
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 9999}, "implies .* in 9999 layers"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be at most 10000"),
        ({"intermediate_size": 10**9}, "the two do not belong together"),
        ({"num_hidden_layers": 3}, "lacks model.layers.2.input_layernorm.weight, .* and 6 more tensors"),
        ({"num_hidden_layers": 1}, "has model.layers.1.*no place"),
        ({"intermediate_size": 40}, r"gate_proj.weight is \(48, 32\), expected \(40, 32\)"),
        ({"tie_word_embeddings": False}, "lacks lm_head.weight"),
        ({"model_type": "rwkv"}, "model_type 'rwkv'"),
    ],
)
def test_weights_that_are_not_what_the_config_says_are_refused_by_name(tmp_path, changes, message):
    saved(tmp_path)
    edit_config(tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        open_model(tmp_path)


def test_stale_rotary_tables_of_old_checkpoints_are_ignored(tmp_path):
    ours = saved(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file(load_file(file) | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)}, file)
    assert torch.equal(open_model(tmp_path)[0](TOKENS), ours(TOKENS))


def test_a_pickle_is_refused_with_the_way_to_convert_it(tmp_path):
    saved(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model.bin is a pickle.*save_pretrained"):
        open_model(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", b"", "cut off or damaged"),
        ("model.safetensors", b"\xff" * 64, "cut off or damaged"),
        ("config.json", b"{", "not valid JSON"),
        ("config.json", b"[]", "must hold a JSON object"),
        ("config.json", b"\xff", "not valid JSON"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, message):
    saved(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}.*{message}"):
        open_model(tmp_path)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"a": "../outside.safetensors"}}, "plain file name"),
        ({"weight_map": {"a": "/etc/passwd"}}, "plain file name"),
        ({"weight_map": {"a": "model-00001-of-00002.safetensors"}}, "lacks 'model-00001-of-00002.safetensors'"),
        ({"weight_map": ["a"]}, "must map tensor names"),
        ({}, "not an index"),
    ],
)
def test_an_index_that_cannot_be_followed_is_refused(tmp_path, index, message):
    saved(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=message):
        open_model(tmp_path)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="259 tokens and the model 100"):
        save_model(tmp_path / "model", Transformer(replace(TINY, vocab_size=100)), TOKENIZER)
    assert not (tmp_path / "model").exists()


def test_a_failing_save_leaves_the_old_model_and_nothing_else(tmp_path, monkeypatch):
    ours = saved(tmp_path / "model")

    def full(*_: object, **__: object) -> None:
        raise hub_weights.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(hub_weights, "save_file", full)
    with pytest.raises(VesaliusError, match="no space left"):
        save_model(tmp_path / "model", Transformer(TINY, seed=1), TOKENIZER)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert torch.equal(open_model(tmp_path / "model")[0](TOKENS), ours(TOKENS))
