"""The noise is transformers', of each conversation's own length, and gone where nothing is trained."""

import itertools

import pytest
import torch
from align.tiny_models import model_for
from transformers.integrations.neftune import neftune_post_forward_hook

from vesalius.align.sft.neftune import Noisy, document_lengths, noise
from vesalius.data.batch import Batch
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.tokenizer import Tokenizer
from vesalius.train.objectives import NextToken

ALPHA = 5.0


@pytest.fixture
def model(tokenizer: Tokenizer) -> Transformer:
    return model_for(tokenizer).train()


def test_the_noise_of_whole_rows_is_transformers() -> None:
    """To 1e-6: theirs draws between two bounds, ours scales."""
    embedded, module = torch.randn(3, 20, 32), torch.nn.Identity().train()
    module.neftune_noise_alpha = ALPHA
    torch.manual_seed(0)
    theirs = neftune_post_forward_hook(module, None, embedded.clone())
    torch.manual_seed(0)
    ours = embedded + noise(embedded, torch.full((3, 20), 20), ALPHA)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_each_conversation_of_a_row_has_noise_of_its_own_length(batch: Batch) -> None:
    """Of the bound α/√(L·D), which 10,000 draws come close to and never pass."""
    lengths = document_lengths(batch)
    assert batch.positions is not None
    for row, positions in enumerate(batch.positions.tolist()):
        starts = [place for place, position in enumerate(positions) if position == 0] + [len(positions)]
        for start, end in itertools.pairwise(starts):
            assert set(lengths[row, start:end].tolist()) == {end - start}
            found = noise(torch.zeros(1, end - start, 10_000), lengths[row : row + 1, start:end], ALPHA)
            bound = ALPHA / ((end - start) * 10_000) ** 0.5
            assert 0.99 * bound < found.abs().max() <= bound


def test_the_loss_is_noisy_and_repeats_with_torch_s_stream(model: Transformer, batch: Batch) -> None:
    objective = Noisy(NextToken(), ALPHA)
    torch.manual_seed(0)
    first, second = objective(model, batch)[0], objective(model, batch)[0]
    torch.manual_seed(0)
    again = objective(model, batch)[0]
    assert first != second
    assert first == again


def test_the_embedding_gets_its_gradient_through_the_noise(model: Transformer, batch: Batch) -> None:
    Noisy(NextToken(), ALPHA)(model, batch)[0].backward()
    assert model.model.embed_tokens.weight.grad is not None
    assert model.model.embed_tokens.weight.grad.abs().sum() > 0


def test_nothing_is_added_in_evaluation_nor_left_behind(model: Transformer, batch: Batch) -> None:
    plain = NextToken()(model.eval(), batch)[0]
    assert Noisy(NextToken(), ALPHA)(model, batch)[0] == plain
    Noisy(NextToken(), ALPHA)(model.train(), batch)
    assert NextToken()(model.eval(), batch)[0] == plain
