"""Virtual tokens: in front of every document of a packed batch and of every text that an engine reads."""

import itertools

import pytest
import torch
from adapting import KINDS, TOKENS, adapted, hidden, logits
from engine_models import tiny_model
from gguf_models import TOKENIZER
from torch import nn

from vesalius.adapt.prefix import PrefixConfig, add_prefix
from vesalius.adapt.prompt import PromptConfig, add_prompt
from vesalius.adapt.switch import switch
from vesalius.adapt.virtual_tokens import insert, virtual_ids
from vesalius.core.errors import UserError
from vesalius.infer.engine import Engine
from vesalius.infer.language_model import LanguageModel
from vesalius.infer.options import EngineOptions
from vesalius.infer.params import SamplingParams

VIRTUAL = ("prompt", "prefix")


def test_a_prompt_is_rows_of_the_embedding_in_front_of_the_text():
    """Beside a model whose embedding has these rows."""
    model, plain = adapted("one", kind="prompt"), tiny_model()
    rows = torch.cat((plain.model.embed_tokens.weight, model.model.adapters["one"].embedding)).detach()
    plain.model.embed_tokens = nn.Embedding.from_pretrained(rows)
    ids = torch.tensor(virtual_ids(model)).expand(2, -1)
    assert ids[0].tolist() == [61, 62, 63]
    expected = logits(plain, torch.cat((ids, TOKENS), 1))[:, 3:]
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-5)


def test_a_new_prefix_is_the_tokens_that_it_was_drawn_from():
    """Its keys and values start as those of tokens, so it is as if these stood there."""
    model = tiny_model()
    add_prefix(model, PrefixConfig(num_virtual_tokens=4), seed=5)
    drawn = torch.randint(61, (4,), generator=torch.Generator().manual_seed(5)).expand(2, -1)
    expected = logits(tiny_model(), torch.cat((drawn, TOKENS), 1))[:, 4:]
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", VIRTUAL)
@pytest.mark.parametrize("model", ["grouped", "window", "alibi", "learned", "sinks"])
def test_a_packed_document_is_read_as_it_is_alone(kind, model):
    made = adapted("one", kind=kind, model=model)
    positions = torch.tensor([[*range(9), *range(15)], [*range(4), *range(12), *range(8)]])
    packed = hidden(made, positions=positions)
    for row, bounds in ((0, (0, 9, 24)), (1, (0, 4, 16, 24))):
        for start, end in itertools.pairwise(bounds):
            alone = hidden(made, TOKENS[row : row + 1, start:end])[0]
            torch.testing.assert_close(packed[row, start:end], alone, rtol=0, atol=1e-5)


def test_rows_with_fewer_documents_are_filled_up_at_their_ends():
    tokens = torch.tensor([[1, 2, 3], [4, 5, 6]])
    filled, positions, places = insert(tokens, torch.tensor([[0, 1, 2], [0, 0, 1]]), torch.tensor([8, 9]))
    assert filled.tolist() == [[8, 9, 1, 2, 3, 0, 0], [8, 9, 4, 8, 9, 5, 6]]
    assert positions is not None
    assert positions.tolist() == [[0, 1, 2, 3, 4, 0, 1], [0, 1, 2, 0, 1, 2, 3]]
    assert torch.equal(filled.gather(1, places), tokens)


@pytest.mark.parametrize("kind", VIRTUAL)
@pytest.mark.parametrize("block_size", [4, 32])
def test_an_engine_writes_what_the_whole_model_says(kind, block_size):
    """Greedy, one request after another and both at once; the second finds the blocks of the first."""
    model = adapted("one", kind=kind)
    engine = Engine(model, [], EngineOptions(block_size=block_size))
    prompts = [[5, 9, 17], [5, 9, 17, 3, 40, 2]]
    for together in (False, True):
        sequences = []
        for prompt in prompts:
            sequences += engine.add(prompt, SamplingParams(max_tokens=8))
            if not together:
                engine.run(sequences[-1])
        for sequence, prompt in zip(sequences, prompts, strict=True):
            engine.run(sequence)
            assert sequence.ids == greedy(model, prompt, 8)


def greedy(model, ids, count):
    ids = list(ids)
    for _ in range(count):
        ids.append(int(logits(model, torch.tensor([ids]))[0, -1].argmax()))
    return ids[-count:]


@pytest.mark.parametrize("kind", VIRTUAL)
def test_scores_are_of_the_text_alone(kind):
    model, ids = adapted("one", kind=kind), [5, 9, 17, 3, 40]
    engine = Engine(model, [])
    expected = logits(model, torch.tensor([ids]))[0].log_softmax(-1)[:-1].gather(1, torch.tensor(ids[1:]).unsqueeze(1))
    found = engine.run(engine.score(ids)).logprobs
    torch.testing.assert_close(torch.tensor(found), expected.squeeze(1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", [{"repetition_penalty": 1.3}, {"num_beams": 3}])
def test_processors_and_beams_know_the_vocabulary_only(options):
    engine = Engine(adapted("one", kind="prompt"), [])
    params = SamplingParams(max_tokens=5, **options)
    beams = "num_beams" in options
    ids = engine.beams([5, 9], params)[0].ids if beams else engine.run(engine.add([5, 9], params)[0]).ids
    assert len(ids) == 5
    assert all(token < 61 for token in ids)


def test_room_is_counted_with_them():
    engine = Engine(adapted("one", kind="prompt"), [])
    with pytest.raises(UserError, match="the prompt has 93 tokens, but the model's context is 96"):
        engine.add(list(range(50)) + list(range(43)), SamplingParams(max_tokens=5))
    (sequence,) = engine.add([1] * 90, SamplingParams(max_tokens=50))
    assert len(engine.run(sequence).ids) == 3


def test_several_in_use_stand_one_behind_the_other_and_none_leaves_the_base():
    model = adapted("one", "two", kind="prompt")
    switch(model, "two", "one")
    assert virtual_ids(model) == [64, 65, 66, 61, 62, 63]
    assert logits(model).shape == (2, 24, 61)
    switch(model)
    assert virtual_ids(model) == []
    assert torch.equal(logits(model), logits(tiny_model()))


def test_who_guesses_cannot_read_them():
    with pytest.raises(UserError, match="speculation = 'ngram' with a prompt or a prefix"):
        LanguageModel(adapted("one", kind="prompt"), TOKENIZER, options=EngineOptions(speculation="ngram"))


@pytest.mark.parametrize(
    ("kind", "model", "message"),
    [
        ("prefix", "latent", "latent attention has not: use a prompt"),
        ("prompt", "longrope", "LongRoPE reads long texts again"),
        ("prefix", "longrope", "LongRoPE reads long texts again"),
    ],
)
def test_models_that_cannot_have_them_are_told(kind, model, message):
    with pytest.raises(UserError, match=message):
        KINDS[kind](tiny_model(model), "one", 0)
    with pytest.raises(UserError, match="num_virtual_tokens = 0, expected a number from 1"):
        add_prompt(tiny_model(), PromptConfig(num_virtual_tokens=0))
