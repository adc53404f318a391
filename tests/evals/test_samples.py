"""Sample records: the text the model wrote, cut at its tokens, with the model's own probabilities."""

import json
import math

import pytest

from vesalius.core.errors import UserError
from vesalius.evals.samples import pieces, sample_report
from vesalius.infer.language_model import Completion, LanguageModel, Usage
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.bpe_training import train_bpe
from vesalius.tokenizers.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    tokenizer = Tokenizer.from_bpe(train_bpe(["the cat sees the dog and the dog sees the cat " * 4], 270))
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, head_dim=8, max_position_embeddings=64,
    )  # fmt: skip
    return LanguageModel(Transformer(config, seed=1), tokenizer)


def completion(tokenizer: Tokenizer, tokens: list[bytes | str], probabilities: list[float]) -> Completion:
    """A completion of chosen tokens: bytes are single-byte tokens' bytes, text is a special token."""
    by_bytes = {tokenizer.token_bytes(token): token for token in range(tokenizer.vocab_size)}
    ids = [by_bytes[token.encode() if isinstance(token, str) else token] for token in tokens]
    return Completion(
        text="", ids=ids, logprobs=[math.log(p) for p in probabilities], finish_reason="stop",
        usage=Usage(prompt_tokens=1, completion_tokens=len(ids)),
    )  # fmt: skip


def test_a_record_is_what_the_report_reads(lm):
    [record] = sample_report(lm, ["the cat"], stage="pretrain", max_tokens=5)
    assert set(record) == {"stage", "prompt", "tokens", "finish_reason"}
    assert (record["stage"], record["prompt"], record["finish_reason"]) == ("pretrain", "the cat", "length")
    assert json.loads(json.dumps(record)) == record


@pytest.mark.parametrize("temperature", [0.0, 1.0, 3.0])
def test_the_pieces_joined_are_the_completion(lm, temperature):
    [record] = sample_report(lm, ["the"], stage="pretrain", max_tokens=40, temperature=temperature, seed=5)
    expected = lm.generate("the", max_tokens=40, temperature=temperature, seed=5).text
    assert "".join(piece["text"] for piece in record["tokens"]) == expected


def test_probabilities_are_the_models_before_temperature(lm):
    answer = lm.generate("the", max_tokens=12, temperature=2.0, seed=3)
    ids = [*lm.prompt_ids("the"), *answer.ids]
    expected = sum(lm.score(ids)[-len(answer.ids) :])
    [record] = sample_report(lm, ["the"], stage="pretrain", max_tokens=12, temperature=2.0, seed=3)
    assert sum(math.log(piece["probability"]) for piece in record["tokens"]) == pytest.approx(expected, abs=1e-4)


def test_messages_are_shown_by_their_last(lm):
    [record] = sample_report(lm, [[{"role": "user", "content": "what sees?"}]], stage="sft", max_tokens=2)
    assert record["prompt"] == "what sees?"


def test_the_same_seed_writes_the_same_samples(lm):
    prompts = ["the", "a dog"]
    first, again = (sample_report(lm, prompts, stage="sft", max_tokens=8, temperature=1.0, seed=9) for _ in range(2))
    assert first == again
    assert [record["prompt"] for record in first] == prompts


def test_a_character_of_several_tokens_is_one_piece_with_the_product_of_probabilities(lm):
    smile = [bytes([byte]) for byte in "🙂".encode()]
    written = completion(lm.tokenizer, [b"a", *smile, b"b"], [0.9, 0.5, 0.5, 0.5, 0.8, 0.7])
    first, second, third = pieces(written, lm.tokenizer)
    assert [first["text"], second["text"], third["text"]] == ["a", "🙂", "b"]
    assert [first["probability"], second["probability"], third["probability"]] == pytest.approx([0.9, 0.1, 0.7])


def test_a_character_that_was_cut_off_is_still_a_piece(lm):
    written = completion(lm.tokenizer, [b"a", "🙂".encode()[:1]], [0.9, 0.5])
    assert [piece["text"] for piece in pieces(written, lm.tokenizer)] == ["a", "\N{REPLACEMENT CHARACTER}"]


def test_special_tokens_are_no_pieces_and_weigh_on_none(lm):
    written = completion(lm.tokenizer, [b"a", "<|im_start|>", b"b", "<|im_end|>"], [0.9, 0.1, 0.7, 0.2])
    assert [(piece["text"], round(piece["probability"], 9)) for piece in pieces(written, lm.tokenizer)] == [
        ("a", 0.9),
        ("b", 0.7),
    ]


def test_a_prompt_beyond_the_context_is_the_users_error(lm):
    with pytest.raises(UserError, match="the prompt has"):
        sample_report(lm, ["the cat sees " * 40], stage="pretrain")
