"""Many sequences on one engine: each gets what it gets alone, whatever the kind of model and the order of things;
sharing, priorities, preemption, scores and embeddings."""

from dataclasses import replace

import pytest
import torch
from engine_models import KINDS, tiny_model

from vesalius.core.errors import UserError, VesaliusError
from vesalius.infer.engine import Engine, EngineOptions, Sequence
from vesalius.infer.params import SamplingParams
from vesalius.models.transformer import Transformer

GENERATOR = torch.Generator().manual_seed(0)
PROMPTS = [torch.randint(61, (n,), generator=GENERATOR).tolist() for n in (5, 1, 17, 30, 9)]
PROMPTS.append([*PROMPTS[3][:20], 7, 8])


@pytest.fixture(scope="module")
def model() -> Transformer:
    return tiny_model()


def alone(model: Transformer, prompt: list[int], **settings) -> list[int]:
    """What full attention over the whole text says is likeliest, a token at a time."""
    tokens = list(prompt)
    with torch.no_grad():
        for _ in range(settings["max_tokens"]):
            tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[len(prompt) :]


def finish(engine: Engine) -> None:
    while engine.has_work:
        engine.step()


@pytest.mark.parametrize("options", [{}, {"block_size": 4, "step_tokens": 7}, {"block_size": 1, "max_running": 2}])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "dynamic"])
def test_each_of_many_sequences_gets_the_tokens_that_it_gets_alone(kind, options):
    model = tiny_model(kind)
    engine = Engine(model, options=EngineOptions(**options))
    sequences = [engine.add(prompt, SamplingParams(max_tokens=12))[0] for prompt in PROMPTS]
    finish(engine)
    for sequence in sequences:
        assert sequence.ids == alone(model, sequence.prompt, max_tokens=12)
        assert sequence.finish_reason == "length"
    assert engine.blocks.used == 0


def test_texts_whose_angles_follow_from_their_length_are_read_as_if_alone():
    model = tiny_model("dynamic")
    together, single = Engine(model), Engine(model)
    sequences = [together.add(prompt, SamplingParams(max_tokens=12))[0] for prompt in PROMPTS]
    finish(together)
    assert [s.ids for s in sequences] == [
        [step.id for step in single.stream(prompt, SamplingParams(max_tokens=12))] for prompt in PROMPTS
    ]


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_narrower_keys_and_values_give_nearly_the_same_probabilities(model, dtype):
    plain, narrow = (Engine(model, options=EngineOptions(cache_dtype=kind)) for kind in ("model", dtype))
    assert narrow.pool.block_bytes < plain.pool.block_bytes
    scores = [torch.tensor(engine.run(engine.score(PROMPTS[3])).logprobs) for engine in (plain, narrow)]
    assert not torch.equal(*scores)
    assert (scores[0] - scores[1]).abs().mean() < 0.06  # of scores that lie around -5


def test_one_step_reads_prompts_in_pieces_between_the_tokens_of_those_that_write(model):
    engine = Engine(model, options=EngineOptions(step_tokens=8))
    first = engine.add(PROMPTS[0], SamplingParams(max_tokens=20))[0]
    engine.step()
    second = engine.add(PROMPTS[3], SamplingParams(max_tokens=2))[0]
    for read in (7, 14, 21, 28):
        engine.step()
        assert second.read == read
    assert len(first.ids) == 5


def test_several_answers_to_a_prompt_read_it_once_and_are_those_of_their_seeds(model):
    engine = Engine(model, options=EngineOptions(block_size=4))
    params = SamplingParams(max_tokens=10, temperature=1.0, seed=3)
    several = engine.add(PROMPTS[2], params, n=3)
    assert [s.state for s in several] == ["waiting", "behind", "behind"]
    finish(engine)
    assert engine.stats.read_tokens == len(PROMPTS[2]) + 3 * 9
    assert engine.stats.prompt_tokens == len(PROMPTS[2])
    for i, sequence in enumerate(several):
        single = Engine(model).stream(PROMPTS[2], replace(params, seed=3 + i))
        assert sequence.ids == [step.id for step in single]
    assert engine.blocks.used == 0


def test_where_the_first_of_several_is_cancelled_the_next_reads_the_prompt(model):
    engine = Engine(model)
    first, second, third = engine.add(PROMPTS[2], SamplingParams(max_tokens=4, temperature=1.0, seed=3), n=3)
    engine.cancel(second)
    engine.cancel(first)
    finish(engine)
    assert (first.ids, second.ids, len(third.ids)) == ([], [], 4)
    assert engine.blocks.used == 0


def test_first_come_first_served_among_equals_and_the_urgent_first(model):
    engine = Engine(model, options=EngineOptions(max_running=1))
    ordinary = [engine.add(PROMPTS[i], SamplingParams(max_tokens=3))[0] for i in range(2)]
    urgent = engine.add(PROMPTS[2], SamplingParams(max_tokens=3), priority=-1)[0]
    over: list[Sequence] = []
    while engine.has_work:
        over += [sequence for sequence in engine.step() if sequence.is_over]
    assert over == [urgent, *ordinary]


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
def test_sequences_that_do_not_all_fit_give_way_and_come_back(model, preemption, tmp_path):
    probe = Engine(model, options=EngineOptions(block_size=4))
    options = EngineOptions(
        block_size=4,
        cache_bytes=20 * probe.pool.block_bytes,  # 80 positions for texts of 22 to 55 tokens
        preemption=preemption,
        prefix_caching=preemption == "recompute",
        swap_file=str(tmp_path / "swap") if preemption == "swap" else None,
    )
    engine = Engine(model, options=options)
    sequences = [engine.add(prompt, SamplingParams(max_tokens=25))[0] for prompt in PROMPTS]
    finish(engine)
    assert engine.stats.preemptions > 0
    assert [s.ids for s in sequences] == [alone(model, s.prompt, max_tokens=25) for s in sequences]
    assert engine.blocks.used == 0
    if preemption == "swap":
        assert engine.stats.read_tokens == sum(s.length - 1 for s in sequences)  # nothing was read twice


def test_a_cache_smaller_than_the_context_is_the_context(model):
    probe = Engine(model, options=EngineOptions(block_size=4))
    engine = Engine(model, options=EngineOptions(block_size=4, cache_bytes=5 * probe.pool.block_bytes))
    assert engine.context == 20
    sequence = engine.run(engine.add(PROMPTS[2], SamplingParams(max_tokens=50))[0])
    assert (sequence.length, sequence.finish_reason) == (20, "length")
    with pytest.raises(UserError, match=r"30 tokens.*the room of the cache \(cache_bytes\) is 20"):
        engine.add(PROMPTS[3], SamplingParams())
    with pytest.raises(UserError, match="a block of 4 positions takes"):
        Engine(model, options=EngineOptions(block_size=4, cache_bytes=5))


def test_blocks_that_a_window_has_left_behind_are_given_back(model):
    engine = Engine(tiny_model("window"), options=EngineOptions(block_size=4, prefix_caching=False))
    sequence = engine.add(PROMPTS[0], SamplingParams(max_tokens=60))[0]
    most = 0
    while engine.has_work:
        engine.step()
        most = max(most, engine.blocks.used)
    assert sequence.length == 65
    assert most <= 4  # a window of 9 lies in at most 3 blocks, and one more is begun
    assert engine.blocks.used == 0


def test_a_cancelled_sequence_frees_its_blocks_at_once_and_the_others_go_on(model):
    engine = Engine(model)
    gone, stays = (engine.add(prompt, SamplingParams(max_tokens=6))[0] for prompt in PROMPTS[2:4])
    engine.step()
    before = engine.blocks.used
    engine.cancel(gone)
    engine.cancel(gone)  # not an error
    assert engine.blocks.used < before
    assert (gone.state, gone.finish_reason) == ("cancelled", None)
    finish(engine)
    assert stays.ids == alone(model, stays.prompt, max_tokens=6)


def test_a_dropped_stream_ends_its_sequence(model):
    engine = Engine(model)
    stream = engine.stream(PROMPTS[0], SamplingParams(max_tokens=50))
    next(stream)
    assert engine.blocks.used > 0
    del stream
    assert engine.blocks.used == 0


def test_a_stream_does_not_write_ahead_of_its_caller(model):
    engine = Engine(model)
    idle, busy = (engine.stream(prompt, SamplingParams(max_tokens=30)) for prompt in PROMPTS[:2])
    next(idle)
    assert len(list(busy)) == 30
    assert len(idle.sequence.ids) == 2


def test_a_stream_whose_caller_pauses_gives_way(model):
    probe = Engine(model, options=EngineOptions(block_size=4))
    engine = Engine(model, options=EngineOptions(block_size=4, cache_bytes=10 * probe.pool.block_bytes, max_running=2))
    paused = [engine.stream(PROMPTS[2], SamplingParams(max_tokens=20)) for _ in range(2)]
    firsts = [next(stream).id for stream in paused]
    late = engine.stream(PROMPTS[3], SamplingParams(max_tokens=9))
    assert [step.id for step in late] == alone(model, PROMPTS[3], max_tokens=9)
    for stream, first in zip(paused, firsts, strict=True):
        assert [first, *(step.id for step in stream)] == alone(model, PROMPTS[2], max_tokens=20)


def test_scores_are_the_logprobs_of_a_text_and_do_not_depend_on_what_was_read_before(model):
    engine = Engine(model, options=EngineOptions(step_tokens=7, block_size=4))
    with torch.no_grad():
        logprobs = model(torch.tensor([PROMPTS[3]]))[0, :-1].log_softmax(-1)
    expected = logprobs.gather(1, torch.tensor(PROMPTS[3][1:]).unsqueeze(1)).squeeze(1).tolist()
    for _ in range(2):
        assert engine.run(engine.score(PROMPTS[3])).logprobs == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert engine.run(engine.score([4])).logprobs == []


def test_an_embedding_is_the_mean_of_the_last_hidden_states(model):
    engine = Engine(model, options=EngineOptions(step_tokens=7))
    with torch.no_grad():
        hidden = model.model(torch.tensor([PROMPTS[3]]))[0]
    embedded = engine.run(engine.embed(PROMPTS[3])).embedding
    torch.testing.assert_close(embedded, hidden.mean(0), atol=1e-5, rtol=1e-5)


def test_one_sequence_that_cannot_go_on_does_not_stop_the_others(model):
    engine = Engine(model)
    forbidden = SamplingParams.of(logit_bias=dict.fromkeys(range(61), -float("inf")), max_tokens=5)
    broken, fine = engine.add(PROMPTS[0], forbidden)[0], engine.add(PROMPTS[1], SamplingParams(max_tokens=5))[0]
    finish(engine)
    assert isinstance(broken.error, UserError)
    assert len(fine.ids) == 5
    with pytest.raises(VesaliusError, match="none is left to take"):
        list(engine.stream(PROMPTS[0], forbidden))
    assert engine.blocks.used == 0


def test_rates_of_what_was_found(model):
    engine = Engine(model, options=EngineOptions(block_size=4))
    for _ in range(2):
        engine.run(engine.add(PROMPTS[2], SamplingParams(max_tokens=2))[0])
    assert (engine.stats.prompt_tokens, engine.stats.cached_tokens) == (34, 16)
    assert engine.stats.hit_rate == 16 / 34
    assert engine.stats.generated_tokens == 4


def test_a_pinned_beginning_stays_whatever_else_is_read(model):
    probe = Engine(model, options=EngineOptions(block_size=4))
    engine = Engine(model, options=EngineOptions(block_size=4, cache_bytes=30 * probe.pool.block_bytes))
    pinned = engine.pin(PROMPTS[2])
    assert engine.blocks.used == len(pinned) == len(PROMPTS[2]) // 4
    for _ in range(2):
        for prompt in (PROMPTS[3], PROMPTS[4], PROMPTS[0]):
            engine.run(engine.add([7, *prompt], SamplingParams(max_tokens=60))[0])
    assert engine.run(engine.add([*PROMPTS[2], 5], SamplingParams(max_tokens=1))[0]).cached_tokens == 16
    with pytest.raises(UserError, match="leaves less than a context of 96"):
        engine.pin(PROMPTS[3])
    engine.unpin(pinned)
    assert engine.blocks.used == 0
