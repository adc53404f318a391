"""Several adapters on one engine: each text gets what it gets alone, nobody finds the blocks of another's adapter, and
where nobody has one the model runs as it was."""

from dataclasses import replace

import pytest
import torch
from adapting import AROUND_LINEARS, KINDS, adapted, stir
from engine_models import tiny_model

from vesalius.adapt.lora import LoraConfig, add_lora
from vesalius.adapt.merging import merge
from vesalius.adapt.switch import disabled, switch
from vesalius.compress.fused_layers import FusedLayers, fuse_layers
from vesalius.compress.quantised_linear import install_blocks
from vesalius.core.errors import UserError
from vesalius.infer.engine import Engine, EngineOptions, Sequence
from vesalius.infer.params import SamplingParams
from vesalius.kernels.block_formats import BlockTensor
from vesalius.kernels.native.interface import available
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer

GENERATOR = torch.Generator().manual_seed(0)
PROMPTS = [torch.randint(61, (n,), generator=GENERATOR).tolist() for n in (5, 40, 17, 30)]
NAMES = (None, "one", "two", "three")
GREEDY = SamplingParams(max_tokens=12)
NARROW = 0.25
"""Weights as wide as the tiny model's would make logits of ±20, whose rounding is above what is compared here."""


def narrow_model() -> Transformer:
    """The base of those below."""
    return Transformer(replace(tiny_model().config, initializer_range=NARROW)).eval()


def with_three(kind: str = "lora") -> Transformer:
    """A model with three adapters, none of them in use for every text."""
    model = adapted("one", "two", "three", kind=kind, initializer_range=NARROW)
    switch(model)
    return model


def finish(engine: Engine) -> None:
    while engine.has_work:
        engine.step()


def logprobs(sequence: Sequence) -> torch.Tensor:
    return torch.tensor([step.logprob for step in sequence.steps])


def alone(model: Transformer, prompt: list[int], name: str | None) -> Sequence:
    """What an engine whose every text has this adapter writes."""
    switch(model, *([name] if name else []))
    engine = Engine(model)
    (sequence,) = engine.add(prompt, GREEDY)
    finish(engine)
    switch(model)
    return sequence


@pytest.mark.parametrize("options", [{}, {"block_size": 4, "step_tokens": 7}, {"max_running": 2}])
@pytest.mark.parametrize("kind", KINDS)
def test_each_text_gets_what_it_gets_alone_with_its_adapter(kind, options):
    model = with_three(kind)
    engine = Engine(model, options=EngineOptions(**options))
    pairs = [(prompt, name) for prompt in PROMPTS for name in NAMES]
    sequences = [engine.add(prompt, GREEDY, adapter=name)[0] for prompt, name in pairs]
    finish(engine)
    answers = set()
    for sequence, (prompt, name) in zip(sequences, pairs, strict=True):
        truth = alone(model, prompt, name)
        assert sequence.ids == truth.ids
        torch.testing.assert_close(logprobs(sequence), logprobs(truth), rtol=0, atol=1e-5)
        answers.add((tuple(prompt), tuple(sequence.ids)))
    assert len(answers) > len(PROMPTS)  # adapters matter
    assert engine.blocks.used == 0


def test_without_an_adapter_a_text_gets_what_the_base_says():
    model = with_three()
    engine = Engine(model)
    (sequence,) = engine.add(PROMPTS[1], GREEDY)
    finish(engine)
    assert sequence.ids == alone(narrow_model(), PROMPTS[1], None).ids


def test_scores_and_embeddings_are_those_of_the_adapter():
    model = with_three()
    engine = Engine(model)
    scored = [engine.score(PROMPTS[3], adapter=name) for name in NAMES]
    embedded = [engine.embed(PROMPTS[3], adapter=name) for name in NAMES]
    finish(engine)
    for name, score, vector in zip(NAMES, scored, embedded, strict=True):
        switch(model, *([name] if name else []))
        single = Engine(model)
        truth = single.run(single.score(PROMPTS[3])).logprobs
        torch.testing.assert_close(torch.tensor(score.logprobs), torch.tensor(truth), rtol=0, atol=1e-5)
        truth = single.run(single.embed(PROMPTS[3])).embedding
        torch.testing.assert_close(vector.embedding, truth, rtol=0, atol=1e-5)
        switch(model)


def test_an_adapter_of_the_output_head_is_used_for_its_rows():
    model = narrow_model()
    for seed, name in enumerate(("one", "two", "three")):
        add_lora(model, LoraConfig(lora_r=4, target_modules=("lm_head", "q_proj")), name, seed=seed)
        stir(model, name, seed)
    switch(model.eval())
    engine = Engine(model)
    sequences = [engine.add(PROMPTS[0], GREEDY, adapter=name)[0] for name in NAMES]
    scores = [engine.score(PROMPTS[0], adapter=name) for name in NAMES]
    finish(engine)
    assert len({tuple(score.logprobs) for score in scores}) == len(NAMES)
    for sequence, name in zip(sequences, NAMES, strict=True):
        truth = alone(model, PROMPTS[0], name)
        assert sequence.ids == truth.ids
        torch.testing.assert_close(logprobs(sequence), logprobs(truth), rtol=0, atol=1e-5)


def test_beams_and_drafts_have_their_adapter():
    model = with_three()
    plain, guessing = Engine(model), Engine(model, options=EngineOptions(speculation="ngram", speculated=3))
    for name in NAMES:
        beams = plain.beams(PROMPTS[2], SamplingParams(max_tokens=6, num_beams=3), adapter=name)
        switch(model, *([name] if name else []))
        truth = Engine(model).beams(PROMPTS[2], SamplingParams(max_tokens=6, num_beams=3))
        switch(model)
        assert [beam.ids for beam in beams] == [beam.ids for beam in truth]
    repeating = PROMPTS[0] * 6
    sequences = [guessing.add(repeating, GREEDY, adapter=name)[0] for name in NAMES]
    finish(guessing)
    assert [s.ids for s in sequences] == [alone(model, repeating, name).ids for name in NAMES]


@pytest.mark.parametrize("kind", ["lora", "prefix"])
def test_blocks_are_found_by_the_same_adapter_only(kind):
    engine = Engine(with_three(kind), options=EngineOptions(block_size=4))
    for name in NAMES:
        (first,) = engine.add(PROMPTS[1], GREEDY, adapter=name)
        finish(engine)
        assert first.cached_tokens == 0
    (again,) = engine.add(PROMPTS[1], GREEDY, adapter="two")
    finish(engine)
    assert again.cached_tokens >= 36


def test_blocks_of_adapters_in_use_for_every_text_are_not_found_by_others():
    model = with_three()
    engine = Engine(model, options=EngineOptions(block_size=4))
    for names in (("one",), ("two",), ("one", "two"), ()):
        switch(model, *names)
        (sequence,) = engine.add(PROMPTS[1], GREEDY)
        finish(engine)
        assert sequence.cached_tokens == 0


def test_answers_to_one_prompt_share_its_adapter():
    model = with_three()
    engine = Engine(model)
    made = engine.add(PROMPTS[2], SamplingParams(max_tokens=4, temperature=1.0, seed=1), n=3, adapter="two")
    finish(engine)
    assert [sequence.adapter for sequence in made] == ["two"] * 3
    switch(model, "two")
    other = Engine(model)
    truth = other.add(PROMPTS[2], SamplingParams(max_tokens=4, temperature=1.0, seed=1), n=3)
    finish(other)
    assert [s.ids for s in made] == [s.ids for s in truth]


def test_what_cannot_be_chosen_is_one_line():
    model = with_three()
    engine = Engine(model)
    with pytest.raises(UserError, match="the model has no adapter 'tow', did you mean 'two'"):
        engine.add(PROMPTS[0], GREEDY, adapter="tow")
    with pytest.raises(UserError, match="the model has no adapter 'two'"):
        Engine(tiny_model()).add(PROMPTS[0], GREEDY, adapter="two")
    switch(model, "one")
    with pytest.raises(UserError, match="in use for every text"):
        engine.add(PROMPTS[0], GREEDY, adapter="two")
    merge(model)
    switchless = Engine(model)
    with pytest.raises(UserError, match="unmerge and switch them off"):
        switchless.score(PROMPTS[0], adapter="one")


def quantised_model() -> Transformer:
    """A model of quantised layers, fused where there is a native library."""
    config = ModelConfig(
        vocab_size=61,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        max_position_embeddings=96,
    )
    model = Transformer(config).eval()
    names = [name for name in model.state_dict() if name.endswith("proj.weight")]
    install_blocks(model, {name: BlockTensor.quantise(model.get_parameter(name), "q8_0") for name in names})
    fuse_layers(model)
    return model


def test_adapters_around_quantised_layers_are_not_passed_by():
    model = quantised_model()
    base = alone(model, PROMPTS[1], None)
    for seed, name in enumerate(("one", "two", "three")):
        add_lora(model, LoraConfig(lora_r=4), name, seed=seed)
        stir(model, name, seed)
    switch(model.eval())
    engine = Engine(model)
    sequences = [engine.add(PROMPTS[1], GREEDY, adapter=name)[0] for name in NAMES]
    finish(engine)
    assert len({tuple(sequence.ids) for sequence in sequences}) == len(NAMES)
    for sequence, name in zip(sequences[1:], NAMES[1:], strict=True):
        assert sequence.ids == alone(model, PROMPTS[1], name).ids
    single = Engine(model)
    (plain,) = single.add(PROMPTS[1], GREEDY)
    finish(single)
    assert plain.ids == base.ids
    assert torch.equal(logprobs(plain), logprobs(base))  # the very same way through the layers


@pytest.mark.skipif(not available(), reason="layers are fused by the native library")
def test_a_step_without_adapters_takes_the_fused_way(monkeypatch):
    model = quantised_model()
    add_lora(model, LoraConfig(lora_r=4), "one")
    stir(model, "one")
    switch(model.eval())
    runs = []
    run_from = FusedLayers._run_from
    monkeypatch.setattr(FusedLayers, "_run_from", lambda *a: runs.append(len(run_from(*a))) or run_from(*a))
    engine = Engine(model)
    for name, fused in ((None, 2), ("one", 0)):
        runs.clear()
        engine.add(PROMPTS[0], SamplingParams(max_tokens=1), adapter=name)
        finish(engine)
        assert max(runs) == fused


@pytest.mark.parametrize("kind", AROUND_LINEARS)
def test_after_a_step_the_model_is_as_it_was(kind):
    model = with_three(kind)
    tokens = torch.tensor([PROMPTS[0]])
    with torch.no_grad():
        before = model(tokens)
        engine = Engine(model)
        for name in NAMES:
            engine.run(engine.score(PROMPTS[0], adapter=name))
        assert torch.equal(model(tokens), before)
        with disabled(model):
            assert torch.equal(model(tokens), before)
