"""Samples of a split: whole documents, never too many tokens, always the same ones."""

import numpy as np
import pytest

from vesalius.evals.document_sample import sample_documents


def test_a_split_that_fits_is_measured_whole(held_out):
    assert sample_documents(held_out, None) is held_out
    assert sample_documents(held_out, held_out.n_tokens) is held_out


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_sample_keeps_to_its_limit(train_shards, share):
    limit = int(train_shards.n_tokens * share)
    sample = sample_documents(train_shards, limit)
    assert limit / 3 < sample.n_tokens <= limit


def test_documents_are_whole_and_their_bytes_are_counted(train_shards):
    sample = sample_documents(train_shards, train_shards.n_tokens // 2)
    stored = [train_shards[i].tolist() for i in range(len(train_shards))]
    assert all(sample[i].tolist() in stored for i in range(len(sample)))
    assert sample.n_bytes == sample.n_tokens - len(sample)  # one token a byte, and the boundaries


def test_reading_a_sample_is_reading_its_documents_one_after_another(train_shards):
    sample = sample_documents(train_shards, train_shards.n_tokens // 2)
    together = np.concatenate([sample[i] for i in range(len(sample))])
    np.testing.assert_array_equal(sample.read(0, sample.n_tokens), together)
    np.testing.assert_array_equal(sample.read(5, 25), together[5:25])


def test_the_seed_decides_which_documents(train_shards):
    limit = train_shards.n_tokens // 2
    first, again, other = (sample_documents(train_shards, limit, seed=seed) for seed in (0, 0, 1))
    assert first.read(0, first.n_tokens).tolist() == again.read(0, again.n_tokens).tolist()
    assert first.read(0, first.n_tokens).tolist() != other.read(0, other.n_tokens).tolist()


def test_a_limit_below_every_document_gives_one_document(train_shards):
    assert len(sample_documents(train_shards, 1)) == 1
