"""Scoring models on disk: transformers opens ours, we open theirs, and both read the same numbers."""

import json
from pathlib import Path

import pytest
import torch
import transformers

from vesalius.align.scoring.files import open_scoring_model, padding_id, save_scoring_model
from vesalius.align.scoring.model import REWARD, STEPS, ScoringModel
from vesalius.core.errors import UserError
from vesalius.hub.directory import open_model, save_model
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.bpe_training import train_bpe
from vesalius.tokenizers.tokenizer import Tokenizer

TOKENIZER = Tokenizer.from_bpe(train_bpe(["What is the sum of the two? It is three. " * 3], 275))
V = TOKENIZER.vocab_size
SIZES = {"vocab_size": V, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.2}
SHAPES = {
    "llama": {"num_key_value_heads": 2},
    "untied": {"tie_word_embeddings": False},
    "qwen3": {"qk_norm": "head"},
    "qwen2": {"attention_bias": True},
    "phi3": {"partial_rotary_factor": 0.5, "tie_word_embeddings": False},
}
AUTO = {
    REWARD: transformers.AutoModelForSequenceClassification,
    STEPS: transformers.AutoModelForTokenClassification,
}


def made(labels: int, **shape) -> ScoringModel:
    model = ScoringModel.on(Transformer(ModelConfig.from_dict(SIZES | shape), seed=1), labels, seed=2).eval()
    if model.score.bias is not None:
        torch.nn.init.normal_(model.score.bias, generator=torch.Generator().manual_seed(3))
    return model


def padded_rows() -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (3, 12) and lengths (3,), padded on the right."""
    lengths = torch.tensor([12, 7, 9])
    tokens = torch.randint(5, V, (3, 12), generator=torch.Generator().manual_seed(0))
    padding = padding_id(TOKENIZER)
    assert padding is not None
    tokens[torch.arange(12) >= lengths[:, None]] = padding
    return tokens, lengths


@pytest.mark.parametrize("labels", [REWARD, STEPS])
@pytest.mark.parametrize("shape", SHAPES)
def test_transformers_reads_the_same_numbers_in_what_is_saved_here(shape: str, labels: int, tmp_path: Path) -> None:
    model = made(labels, **SHAPES[shape])
    save_scoring_model(tmp_path / "m", model, TOKENIZER)
    theirs = AUTO[labels].from_pretrained(tmp_path / "m").eval()
    tokens, lengths = padded_rows()
    mask = torch.arange(12) < lengths[:, None]
    with torch.no_grad():
        found = theirs(tokens, attention_mask=mask.long()).logits
        ours = model(tokens)
    if labels == REWARD:
        torch.testing.assert_close(ours[torch.arange(3), lengths - 1], found, atol=1e-5, rtol=1e-5)
    else:
        torch.testing.assert_close(ours[mask], found[mask], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("labels", [REWARD, STEPS])
def test_what_transformers_saves_opens_here(labels: int, tmp_path: Path) -> None:
    config = transformers.LlamaConfig(
        vocab_size=V, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_labels=labels, pad_token_id=1, tie_word_embeddings=False,
    )  # fmt: skip
    theirs = AUTO[labels].from_config(config).eval()
    theirs.save_pretrained(tmp_path)
    TOKENIZER.save(tmp_path)
    ours, tokenizer = open_scoring_model(tmp_path)
    assert tokenizer.encode("two") == TOKENIZER.encode("two")
    tokens, _ = padded_rows()
    with torch.no_grad():
        found = theirs(tokens[:1]).logits
        expected = ours(tokens[:1])
    torch.testing.assert_close(found, expected[:, -1] if labels == REWARD else expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("labels", [REWARD, STEPS])
@pytest.mark.parametrize("shape", [*SHAPES, "own"])
def test_what_is_saved_opens_with_the_same_bits(shape: str, labels: int, tmp_path: Path) -> None:
    model = made(labels, **SHAPES.get(shape, {"qk_norm": "full", "position": "alibi"}))
    save_scoring_model(tmp_path / "m", model, TOKENIZER)
    again, _ = open_scoring_model(tmp_path / "m")
    assert again.config == model.config
    tokens, _ = padded_rows()
    assert torch.equal(again(tokens), model(tokens))


def test_a_directory_that_scores_nothing_is_told(tmp_path: Path) -> None:
    save_model(tmp_path / "m", Transformer(ModelConfig.from_dict(SIZES)), TOKENIZER)
    with pytest.raises(
        UserError, match=r"is a LlamaForCausalLM, which scores nothing: give a model that `vesalius run"
    ):
        open_scoring_model(tmp_path / "m")


def test_a_scoring_model_does_not_open_as_one_that_writes(tmp_path: Path) -> None:
    save_scoring_model(tmp_path / "m", made(REWARD), TOKENIZER)
    with pytest.raises(UserError, match="is a LlamaForSequenceClassification: it scores texts and writes none"):
        open_model(tmp_path / "m")


def test_a_head_of_other_labels_is_told(tmp_path: Path) -> None:
    save_scoring_model(tmp_path / "m", made(STEPS), TOKENIZER)
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config["architectures"] = ["LlamaForSequenceClassification"]
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        UserError, match=r"must have \{'weight': \(1, 32\)\}, got \{'weight': \(2, 32\), 'bias': \(2,\)"
    ):
        open_scoring_model(tmp_path / "m")
