"""A draft model: what it writes on is what it would write alone, however much of its last draft stood."""

import pytest
import torch
from infer.speculative.written import text

from vesalius.core.errors import UserError
from vesalius.infer.params import SamplingParams
from vesalius.infer.sampling import process
from vesalius.infer.speculative.draft import EMPTY
from vesalius.infer.speculative.draft_model import DraftModel
from vesalius.models.config import ModelConfig
from vesalius.models.config_sections import RopeScaling
from vesalius.models.transformer import Transformer

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.5,
}
PROMPT = [5, 11, 3, 7, 7, 2]


@pytest.fixture(scope="module")
def model() -> Transformer:
    return Transformer(ModelConfig.from_dict(SIZES)).eval()


def alone(model: Transformer, ids: list[int], count: int) -> list[int]:
    """The likeliest tokens without a cache."""
    ids = list(ids)
    for _ in range(count):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[-count:]


def test_it_writes_on_greedily_whatever_of_its_drafts_stood(model):
    drafter, sequence = DraftModel(model, model.config), text(PROMPT)
    for stood in (4, 0, 2, 3, 4, 1):
        draft = drafter.propose(sequence, 4)
        expected = alone(model, sequence.prompt + sequence.ids, 4)
        assert draft.is_chain
        assert draft.tokens == expected
        assert draft.probabilities is None
        sequence.ids += [*draft.tokens[:stood], 60]
    sequence.ids += [1, 2, 3, 4, 5, 6, 7]  # written without it
    assert drafter.propose(sequence, 3).tokens == alone(model, sequence.prompt + sequence.ids, 3)


def test_it_reads_only_what_it_has_not_read(model):
    drafter, sequence = DraftModel(model, model.config), text(PROMPT)
    counts: list[int] = []
    hook = model.model.embed_tokens.register_forward_hook(lambda _, inputs, __: counts.append(inputs[0].shape[1]))
    draft = drafter.propose(sequence, 3)
    sequence.ids += [*draft.tokens, 9]  # all of it and one more: its last guess was never read
    drafter.propose(sequence, 2)
    sequence.ids += [60]
    drafter.propose(sequence, 1)
    hook.remove()
    assert counts == [6, 1, 1, 2, 1, 1]


def test_its_draws_come_with_the_distributions_they_were_drawn_from(model):
    params = SamplingParams(temperature=0.8, top_k=5)
    drafter, sequence = DraftModel(model, model.config), text(PROMPT, params)
    seen = set()
    for seed in range(20):
        sequence.generator = torch.Generator().manual_seed(seed)
        draft = drafter.propose(sequence, 3)
        ids = torch.tensor([PROMPT + draft.tokens])
        with torch.no_grad():
            expected = process(model(ids)[0, len(PROMPT) - 1 : -1], params).softmax(-1)
        torch.testing.assert_close(draft.probabilities, expected, atol=1e-5, rtol=1e-4)
        assert all(draft.probabilities[i, token] > 0 for i, token in enumerate(draft.tokens))
        seen.add(tuple(draft.tokens))
    assert len(seen) > 5


def test_it_drafts_no_further_than_its_own_context(model):
    drafter, sequence = DraftModel(model, model.config), text([3] * 60)
    assert len(drafter.propose(sequence, 8)) == 4
    assert drafter.propose(text([3] * 64), 8) is EMPTY


def test_a_text_that_outgrows_its_frequencies_is_read_again():
    factors = tuple(1.0 + 3 * i for i in range(4))
    scaling = RopeScaling(
        kind="longrope", original_max_position_embeddings=8, short_factor=(1.0,) * 4, long_factor=factors
    )
    model = Transformer(ModelConfig.from_dict(SIZES | {"rope_scaling": scaling})).eval()
    drafter, sequence = DraftModel(model, model.config), text(PROMPT)
    for _ in range(6):
        assert drafter.propose(sequence, 1).tokens == alone(model, sequence.prompt + sequence.ids, 1)
        sequence.ids += drafter.propose(sequence, 1).tokens


def test_a_closed_sequence_is_forgotten(model):
    drafter, sequence = DraftModel(model, model.config), text(PROMPT)
    drafter.propose(sequence, 1)
    assert len(drafter._readers) == 1
    drafter.close(sequence)
    assert len(drafter._readers) == 0


def test_a_model_with_other_words_is_refused(model):
    with pytest.raises(UserError, match="draft model has 61 tokens and the model 62"):
        DraftModel(model, ModelConfig.from_dict(SIZES | {"vocab_size": 62}))
