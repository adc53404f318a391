"""Bits per byte of models whose cost is known, and of a Transformer against its own log-probabilities."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vesalius.core.errors import UserError
from vesalius.data.batch import IGNORE
from vesalius.evals.bits_per_byte import bits_per_byte, negative_log_likelihood
from vesalius.evals.document_sample import sample_documents
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer

V = 257


class Bigram(nn.Module):
    """Logits that depend on the token before and nothing else, so that windows must not matter."""

    def __init__(self, *, seed: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(V, V, generator=torch.Generator().manual_seed(seed)))

    def forward(self, tokens, positions):
        return self.table[tokens]


def transformer() -> Transformer:
    config = ModelConfig(
        vocab_size=V, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=2048,
    )  # fmt: skip
    return Transformer(config, seed=3)


def costs(model: nn.Module, documents) -> list[float]:
    """Nats of each document by itself, in one window."""
    nats = []
    for i in range(len(documents)):
        ids = torch.from_numpy(documents[i].astype("int64"))
        with torch.no_grad():
            logits = model(ids[None, :-1], torch.arange(len(ids) - 1)[None])[0]
        nats.append(float(F.cross_entropy(logits.double(), ids[1:], reduction="sum")))
    return nats


def test_a_uniform_model_costs_the_logarithm_of_the_vocabulary(held_out):
    model = Bigram(seed=0)
    nn.init.zeros_(model.table)
    result = bits_per_byte(model, held_out, context=32)
    assert result["loss"] == pytest.approx(math.log(V), rel=1e-6)
    assert result["bits_per_byte"] == pytest.approx(math.log2(V), rel=1e-6)  # one token a byte


@pytest.mark.parametrize(
    ("context", "batch_rows", "stride"), [(7, 1, None), (32, 8, None), (32, 3, 5), (10_000, 2, None)]
)
def test_every_token_is_counted_once_however_the_split_is_cut(held_out, context, batch_rows, stride):
    model = Bigram(seed=1)
    result = bits_per_byte(model, held_out, context=context, batch_rows=batch_rows, stride=stride)
    expected = sum(costs(model, held_out)) / (math.log(2) * held_out.n_bytes)
    assert result["bits_per_byte"] == pytest.approx(expected, rel=1e-6)
    assert result["measured_tokens"] == held_out.n_tokens - len(held_out)


def test_a_transformer_reads_each_document_by_itself(held_out):
    """One window holds all documents, so its cost is that of the documents one by one."""
    model = transformer()
    result = bits_per_byte(model, held_out, context=held_out.n_tokens)
    expected = sum(costs(model, held_out)) / (math.log(2) * held_out.n_bytes)
    assert result["bits_per_byte"] == pytest.approx(expected, rel=1e-6)


def test_a_sample_is_divided_by_its_own_bytes(held_out):
    model = Bigram(seed=2)
    limit = held_out.n_tokens // 2
    sample = sample_documents(held_out, limit)
    result = bits_per_byte(model, held_out, context=32, max_tokens=limit)
    assert result["bits_per_byte"] == pytest.approx(
        sum(costs(model, sample)) / (math.log(2) * sample.n_bytes), rel=1e-6
    )
    assert (result["measured_documents"], result["measured_bytes"]) == (len(sample), sample.n_bytes)


def test_autocast_computes_in_the_dtype_asked_for(held_out):
    seen = []

    class Product(Bigram):
        def forward(self, tokens, positions):
            logits = F.one_hot(tokens, V).float() @ self.table
            seen.append(logits.dtype)
            return logits

    exact, rounded = (
        bits_per_byte(Product(seed=4), held_out, context=32, dtype=dtype) for dtype in (None, torch.bfloat16)
    )
    assert set(seen) == {torch.float32, torch.bfloat16}
    assert rounded["bits_per_byte"] == pytest.approx(exact["bits_per_byte"], rel=1e-2)


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_inside_and_the_mode_comes_back(held_out, training):
    modes = []

    class Watched(Bigram):
        def forward(self, tokens, positions):
            modes.append(self.training)
            return super().forward(tokens, positions)

    model = Watched(seed=5).train(training)
    bits_per_byte(model, held_out, context=32)
    assert set(modes) == {False}
    assert model.training is training


def test_training_goes_on_after_a_measurement(held_out):
    """Nothing that inference mode made stays behind in the model."""
    model = transformer()
    bits_per_byte(model, held_out, context=32)
    model(torch.arange(1, 33)[None], torch.arange(32)[None]).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_negative_log_likelihood_is_torchs_sum_over_the_batch():
    generator = torch.Generator().manual_seed(6)
    logits = torch.randn(3, 5, 11, generator=generator)
    targets = torch.randint(11, (3, 5), generator=generator)
    targets[1] = IGNORE
    targets[2, 3:] = IGNORE
    expected = F.cross_entropy(logits.double().flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum")
    assert float(negative_log_likelihood(logits, targets)) == pytest.approx(float(expected), rel=1e-6)


def test_a_split_without_text_is_the_users_error(held_out):
    held_out.n_bytes = 0
    with pytest.raises(UserError, match="the validation split holds no text"):
        bits_per_byte(Bigram(seed=7), held_out, context=32)
