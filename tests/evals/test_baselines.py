"""Baselines on a corpus small enough to compute each of them another way."""

import math

import numpy as np
import pytest

from vesalius.core.errors import UserError
from vesalius.evals import baselines as module
from vesalius.evals.baselines import baselines
from vesalius.evals.document_sample import sample_documents
from vesalius.foundations.compression import gzip_bits_per_byte, xz_bits_per_byte
from vesalius.foundations.ngram import KneserNey


def texts(documents) -> list[bytes]:
    return [bytes(token - 1 for token in documents[i][1:].tolist()) for i in range(len(documents))]


def kneser_ney(training: np.ndarray, documents) -> float:
    log_probs = KneserNey.fit(training, 257, boundary=0).log_probs(documents.read(0, documents.n_tokens))
    return -log_probs.sum() / (math.log(2) * documents.n_bytes)


def test_kneser_ney_counts_the_training_tokens(train_shards, held_out, byte_tokenizer):
    expected = kneser_ney(train_shards.read(0, train_shards.n_tokens), held_out)
    result = baselines(train_shards, held_out, byte_tokenizer)
    assert result["kneser_ney"] == pytest.approx(expected, rel=1e-12)
    assert result["kneser_ney_tokens"] == train_shards.n_tokens


def test_kneser_ney_is_the_same_when_long_splits_are_scored_in_spans(
    train_shards, held_out, byte_tokenizer, monkeypatch
):
    whole = baselines(train_shards, held_out, byte_tokenizer)["kneser_ney"]
    monkeypatch.setattr(module, "SPAN", 13)
    assert baselines(train_shards, held_out, byte_tokenizer)["kneser_ney"] == pytest.approx(whole, rel=1e-12)


def test_compressors_have_seen_the_training_text(train_shards, held_out, byte_tokenizer):
    training = b"".join(texts(train_shards))
    result = baselines(train_shards, held_out, byte_tokenizer)
    assert result["gzip"] == gzip_bits_per_byte(texts(held_out), training)
    assert result["xz"] == xz_bits_per_byte(texts(held_out), training)
    assert result["compressor_bytes"] == len(training) == train_shards.n_bytes


def test_the_uniform_model_pays_the_logarithm_of_the_vocabulary_for_each_token(train_shards, held_out, byte_tokenizer):
    expected = math.log2(257) * (held_out.n_tokens - len(held_out)) / held_out.n_bytes
    assert baselines(train_shards, held_out, byte_tokenizer)["uniform"] == pytest.approx(expected, rel=1e-12)


def test_all_are_measured_on_the_sample_that_the_model_is_measured_on(train_shards, held_out, byte_tokenizer):
    limit = held_out.n_tokens // 2
    sample = sample_documents(held_out, limit)
    result = baselines(train_shards, held_out, byte_tokenizer, max_tokens=limit)
    assert result["kneser_ney"] == pytest.approx(
        kneser_ney(train_shards.read(0, train_shards.n_tokens), sample), rel=1e-12
    )
    assert result["gzip"] == gzip_bits_per_byte(texts(sample), b"".join(texts(train_shards)))
    assert result["xz"] == xz_bits_per_byte(texts(sample), b"".join(texts(train_shards)))


def test_a_large_training_split_is_learned_from_in_part_and_the_result_says_so(
    train_shards, held_out, byte_tokenizer, monkeypatch
):
    monkeypatch.setattr(module, "KNESER_NEY_TOKENS", 500)
    monkeypatch.setattr(module, "COMPRESSOR_BYTES", 300)
    result = baselines(train_shards, held_out, byte_tokenizer)
    sample = sample_documents(train_shards, 500)
    assert result["kneser_ney"] == pytest.approx(kneser_ney(sample.read(0, sample.n_tokens), held_out), rel=1e-12)
    assert result["kneser_ney_tokens"] == sample.n_tokens
    assert 100 < result["compressor_bytes"] <= 300


def test_one_huge_training_document_is_cut(train_shards, held_out, byte_tokenizer, monkeypatch):
    monkeypatch.setattr(module, "KNESER_NEY_TOKENS", 10)
    monkeypatch.setattr(module, "COMPRESSOR_BYTES", 9)
    result = baselines(train_shards, held_out, byte_tokenizer)
    assert (result["kneser_ney_tokens"], result["compressor_bytes"]) == (10, 9)


def test_shards_of_another_tokenizer_are_refused(train_shards, held_out, byte_tokenizer, monkeypatch):
    monkeypatch.setattr(type(byte_tokenizer), "token_bytes", lambda self, token: b"two")
    with pytest.raises(UserError, match=r"decode to \d+ bytes, their index says"):
        baselines(train_shards, held_out, byte_tokenizer)


def test_a_split_without_text_is_the_users_error(train_shards, held_out, byte_tokenizer):
    held_out.n_bytes = 0
    with pytest.raises(UserError, match="no held-out text"):
        baselines(train_shards, held_out, byte_tokenizer)
