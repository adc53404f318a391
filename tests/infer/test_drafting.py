"""Speculation in the engine: the answers are those of plain decoding whatever guesses, in any batch, cache and kind of
model; fewer steps where the guesses are right."""

import pytest
import torch
from engine_models import KINDS, SIZES, tiny_model
from guessing import Knowing, free
from vocabularies import byte_level, bytes_only

from vesalius.infer.constrain import Constraint, compile_constraint
from vesalius.infer.engine import Engine, EngineOptions, Sequence
from vesalius.infer.params import SamplingParams
from vesalius.infer.speculative.draft import EMPTY, Draft
from vesalius.infer.speculative.draft_model import DraftModel
from vesalius.infer.speculative.early_exit import early_exit
from vesalius.infer.speculative.heads import Heads, MultiTokenHeads
from vesalius.infer.speculative.ngram import Lookup
from vesalius.infer.speculative.speculation import Speculation
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer

GENERATOR = torch.Generator().manual_seed(0)
PROMPTS = [torch.randint(61, (n,), generator=GENERATOR).tolist() for n in (5, 1, 17, 70, 9)]
PROMPTS.append([*PROMPTS[3][:20], 7, 8])


def answered(
    model: Transformer, speculation: Speculation | None, params: SamplingParams, options: EngineOptions | None = None
) -> Engine:
    """An engine that has answered all prompts, which came while others were being answered."""
    engine = Engine(model, options=options or EngineOptions(block_size=4), speculation=speculation)
    engine.sequences = []
    for prompt in PROMPTS:
        engine.sequences += engine.add(prompt, params)
        engine.step()
        engine.step()
    while engine.has_work:
        engine.step()
    return engine


def ids(engine: Engine) -> list[list[int]]:
    assert engine.blocks.used == 0
    return [sequence.ids for sequence in engine.sequences]


def answers(engine: Engine) -> dict[tuple[int, ...], list[int]]:
    return {tuple(sequence.prompt): list(sequence.ids) for sequence in engine.sequences}


GREEDY = SamplingParams(max_tokens=24)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_trees_of_guesses_change_no_answer_of_any_kind_of_model(kind):
    model = tiny_model(kind)
    plain = answered(model, None, GREEDY)
    proposer = Knowing(answers(plain))
    guessing = answered(model, free(proposer, most=12), GREEDY)
    assert ids(guessing) == ids(plain)
    assert not proposer.open
    if kind in ("dynamic", "longrope"):  # turned as a whole: no drafts
        assert guessing.stats.drafted == 0
    else:
        assert guessing.stats.accepted > 20
        assert guessing.stats.steps < plain.stats.steps


@pytest.mark.parametrize(
    "options",
    [
        {"block_size": 1},
        {"block_size": 32, "step_tokens": 8},
        {"block_size": 4, "max_running": 2},
        {"block_size": 4, "prefix_caching": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("branching", [True, False])
def test_nor_does_the_way_the_cache_is_laid_out(options, branching):
    model = tiny_model()
    plain = answered(model, None, GREEDY)
    proposer = Knowing(answers(plain), branching=branching)
    assert ids(answered(model, free(proposer), GREEDY, EngineOptions(**options))) == ids(plain)


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
def test_nor_do_sequences_that_give_way_to_others(preemption):
    model = tiny_model()
    plain = answered(model, None, GREEDY)
    few = 30 * plain.pool.block_bytes
    options = EngineOptions(block_size=4, cache_bytes=few, preemption=preemption)
    guessing = answered(model, free(Knowing(answers(plain))), GREEDY, options)
    assert guessing.stats.preemptions > 0
    assert ids(guessing) == ids(plain)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1.0, "seed": 3},
        {"temperature": 0.8, "top_k": 9, "top_p": 0.9, "seed": 3},
        {"repetition_penalty": 1.3, "presence_penalty": 0.5},
        {"temperature": 1.0, "seed": 1, "no_repeat_ngram_size": 2, "min_tokens": 5},
        {"top_logprobs": 3},
    ],
    ids=str,
)
def test_guesses_change_nothing_of_drawn_or_penalised_answers_either(settings):
    model, params = tiny_model(), SamplingParams(max_tokens=24, **settings)
    plain = answered(model, None, params)
    guessing = answered(model, free(Knowing(answers(plain))), params)
    assert ids(guessing) == ids(plain)
    assert guessing.stats.accepted > 20
    for ours, theirs in zip(guessing.sequences, plain.sequences, strict=True):
        assert [step.logprob for step in ours.steps] == pytest.approx([s.logprob for s in theirs.steps], abs=1e-4)
        assert [step.finish_reason for step in ours.steps] == [s.finish_reason for s in theirs.steps]
        assert [list(step.top_logprobs) for step in ours.steps] == [list(s.top_logprobs) for s in theirs.steps]


def test_several_answers_to_one_prompt_are_those_of_their_seeds():
    model, params = tiny_model(), SamplingParams(max_tokens=20, temperature=1.0, seed=5)
    plain, guessing = (Engine(model, speculation=s) for s in (None, free(Knowing({}))))
    for engine in (plain, guessing):
        engine.sequences = engine.add(PROMPTS[2], params, n=3)
        while engine.has_work:
            engine.step()
    assert ids(guessing) == ids(plain)


def proposers(model: Transformer):
    heads = MultiTokenHeads(model.config.hidden_size, 3)
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(1))
    other = tiny_model()
    for parameter in other.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
    return {
        "ngram": Lookup(),
        "draft": DraftModel(other, model.config),
        "same": DraftModel(model, model.config),
        "early_exit": early_exit(model, 1),
        "heads": Heads(model, heads),
    }


@pytest.mark.parametrize("name", ["ngram", "draft", "same", "early_exit", "heads"])
@pytest.mark.parametrize("controlled", [True, False])
def test_every_proposer_leaves_greedy_answers_as_they_are(name, controlled):
    model = tiny_model()
    plain = answered(model, None, GREEDY)
    speculation = free(proposers(model)[name])
    if controlled:
        speculation = Speculation(proposers(model)[name])
    guessing = answered(model, speculation, GREEDY)
    assert ids(guessing) == ids(plain)
    assert controlled or guessing.stats.drafted > 0


def test_the_model_itself_as_its_draft_is_nearly_always_right():
    model = tiny_model()
    guessing = answered(model, free(DraftModel(model, model.config)), GREEDY)
    report = guessing.speculation.report()
    assert report.alpha > 0.99
    assert guessing.stats.acceptance > 0.99
    drawn = answered(
        model, free(DraftModel(model, model.config)), SamplingParams(max_tokens=24, temperature=1.0, seed=0)
    )
    assert drawn.speculation.report().alpha > 0.99  # p = q: nothing is refused


def test_an_end_token_within_a_draft_ends_the_answer_there():
    model = tiny_model()
    plain = Engine(model)
    answer = [step.id for step in plain.stream(PROMPTS[2], GREEDY)]
    end = answer[9]
    proposer = Knowing({tuple(PROMPTS[2]): answer}, branching=False)
    engine = Engine(model, (end,), speculation=free(proposer))
    sequence = engine.run(engine.add(PROMPTS[2], GREEDY)[0])
    assert sequence.ids == answer[: answer.index(end) + 1]
    assert sequence.finish_reason == "stop"
    assert engine.blocks.used == 0


def test_the_end_of_the_context_is_the_end_of_every_draft():
    model = tiny_model()
    long = SamplingParams(max_tokens=10_000)
    plain = Engine(model)
    answer = [step.id for step in plain.stream(PROMPTS[2], long)]
    engine = Engine(model, speculation=free(Knowing({tuple(PROMPTS[2]): answer}, branching=False)))
    assert [step.id for step in engine.stream(PROMPTS[2], long)] == answer


def test_what_was_accepted_is_found_again_by_a_later_prompt():
    model, options = tiny_model(), EngineOptions(block_size=4)
    answer = [step.id for step in Engine(model).stream(PROMPTS[2], GREEDY)]
    later = [*PROMPTS[2], *answer, 3]
    expected = [step.id for step in Engine(model).stream(later, GREEDY)]
    engine = Engine(model, options=options, speculation=free(Knowing({tuple(PROMPTS[2]): answer}), most=12))
    engine.run(engine.add(PROMPTS[2], GREEDY)[0])
    second = engine.run(engine.add(later, GREEDY)[0])
    assert second.ids == expected
    assert second.cached_tokens >= len(later) - 8


def test_a_draft_takes_no_block_that_is_not_free():
    model = tiny_model()
    probe = Engine(model, options=EngineOptions(block_size=4))
    options = EngineOptions(block_size=4, cache_bytes=6 * probe.pool.block_bytes)
    answer = [step.id for step in Engine(model, options=options).stream(PROMPTS[0], SamplingParams(max_tokens=50))]
    engine = Engine(model, options=options, speculation=free(Knowing({tuple(PROMPTS[0]): answer}), most=40))
    assert [step.id for step in engine.stream(PROMPTS[0], SamplingParams(max_tokens=50))] == answer
    assert len(answer) == 24 - len(PROMPTS[0])


def test_the_last_hidden_state_is_that_of_the_row_that_gave_the_last_token():
    model = tiny_model()
    plain = [step.id for step in Engine(model).stream(PROMPTS[2], GREEDY)]
    proposer = Knowing({tuple(PROMPTS[2]): plain})
    proposer.needs_hidden = True
    engine = Engine(model, speculation=free(proposer))
    sequence = engine.add(PROMPTS[2], GREEDY)[0]
    while not sequence.is_over:
        engine.step()
        with torch.no_grad():
            expected = model.model(torch.tensor([sequence.tokens(0, sequence.length - 1)]))[0, -1]
        torch.testing.assert_close(sequence.hidden, expected, atol=1e-4, rtol=1e-4)


def test_without_a_guess_a_step_is_a_plain_one():
    class Silent(Knowing):
        def propose(self, sequence: Sequence, limit: int) -> Draft:
            return EMPTY

    model = tiny_model()
    plain, silent = answered(model, None, GREEDY), answered(model, free(Silent({})), GREEDY)
    assert ids(silent) == ids(plain)
    assert silent.stats == plain.stats


def test_guesses_change_no_answer_that_has_to_follow_a_grammar():
    tokenizer = bytes_only()
    model = Transformer(ModelConfig.from_dict(SIZES | {"vocab_size": tokenizer.vocab_size})).eval()
    for settings in ({}, {"temperature": 1.0, "seed": 4}):
        params = SamplingParams(max_tokens=30, regex=r"[a-f]{9}-(one|two|three)-[0-9]{4}", **settings)

        def answer(speculation: Speculation | None, params: SamplingParams = params) -> tuple[list[int], int]:
            engine = Engine(model, tokenizer.eos_ids, speculation=speculation)
            constraint = compile_constraint(tokenizer, params.constraint)
            sequence = engine.run(engine.add(PROMPTS[2], params, constraint=constraint)[0])
            return sequence.ids, engine.stats.accepted

        plain, _ = answer(None)
        guessed, accepted = answer(free(Knowing({tuple(PROMPTS[2]): list(plain)})))
        assert guessed == plain
        assert accepted > 5
        assert "-" in tokenizer.decode(plain)


class Unforced(Constraint):
    """A grammar that never says that there is no choice: every token takes a step."""

    def forced(self) -> list[int]:
        return []

    def fork(self) -> "Unforced":
        return Unforced(self._vocabulary, super().fork()._matcher)


SCHEMA = {
    "type": "object",
    "properties": {
        "first_name": {"enum": ["Ada", "Adele"]},
        "occupation": {"enum": [1, 2]},
        "employed": {"const": True},
    },
    "required": ["first_name", "occupation", "employed"],
    "additionalProperties": False,
}


def held(tokenizer, forcing: bool, *, n: int = 1, options: dict | None = None, speculation=None, **settings) -> Engine:
    """An engine that has answered two prompts with texts of SCHEMA."""
    model = Transformer(ModelConfig.from_dict(SIZES | {"vocab_size": tokenizer.vocab_size})).eval()
    params = SamplingParams(**{"json_schema": SCHEMA, "max_tokens": 90, **settings})
    engine = Engine(model, tokenizer.eos_ids, EngineOptions(block_size=4, **(options or {})), speculation=speculation)
    constraint = compile_constraint(tokenizer, params.constraint)
    if not forcing:
        constraint = Unforced(constraint._vocabulary, constraint._matcher)
    engine.sequences = [
        sequence for end in (3, 4) for sequence in engine.add([5, end], params, n=n, constraint=constraint.fork())
    ]
    while engine.has_work:
        engine.step()
    assert engine.blocks.used == 0
    assert all(sequence.error is None for sequence in engine.sequences)
    return engine


@pytest.mark.parametrize("make", [bytes_only, byte_level])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 1.5, "seed": 4},
        {"temperature": 1.0, "seed": 4, "n": 3},
        {"max_tokens": 17},
        {"temperature": 1.0, "seed": 2, "repetition_penalty": 1.3, "top_logprobs": 2},
        {"options": {"max_running": 1, "step_tokens": 2}},
        {"options": {"cache_bytes": 24 * 4 * 256, "preemption": "swap"}, "temperature": 1.0, "seed": 7, "n": 3},
    ],
    ids=str,
)
def test_what_a_grammar_leaves_no_choice_about_is_written_in_fewer_steps_and_changes_no_answer(make, settings):
    tokenizer = make()
    plain, forcing = held(tokenizer, False, **settings), held(tokenizer, True, **settings)
    assert ids(forcing) == ids(plain)
    for ours, theirs in zip(forcing.sequences, plain.sequences, strict=True):
        assert [step.finish_reason for step in ours.steps] == [step.finish_reason for step in theirs.steps]
        assert [step.logprob for step in ours.steps] == pytest.approx([s.logprob for s in theirs.steps], abs=1e-4)
    assert plain.stats.forced_tokens == 0
    assert forcing.stats.forced_tokens > 5
    assert forcing.stats.generated_tokens == plain.stats.generated_tokens
    assert forcing.stats.steps < plain.stats.steps


def test_a_text_that_is_forced_from_end_to_end_takes_two_steps():
    tokenizer = bytes_only()
    text = "only this can be said"
    engine = held(tokenizer, True, json_schema=None, choices=(text,))
    assert [tokenizer.decode(sequence.ids[:-1]) for sequence in engine.sequences] == [text, text]
    assert engine.stats.steps == 2  # the prompts and the first letter; all the others and the end token
    assert engine.stats.forced_tokens == 2 * (len(text) - 1)
    assert (engine.stats.drafted, engine.stats.accepted) == (0, 0)


def test_guesses_and_forced_tokens_take_turns_and_are_counted_apart():
    tokenizer = bytes_only()
    plain = held(tokenizer, False)
    speculation = free(Knowing(answers(plain)))
    both = held(tokenizer, True, speculation=speculation)
    assert ids(both) == ids(plain)
    assert both.stats.forced_tokens > 5
    assert both.stats.accepted > 0
    assert speculation.report().drafted == both.stats.drafted
    assert not speculation.proposer.open
