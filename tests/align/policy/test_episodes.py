"""Episodes: what the engine sampled is what is kept, at the trainer's probabilities; groups, tools, masks, hit rate."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vesalius.align.logprobs import token_logprobs
from vesalius.align.policy.calculator import calculator
from vesalius.align.policy.episodes import Dialogue, Episode, Sampler
from vesalius.align.policy.groups import lay_out
from vesalius.core.errors import UserError, VesaliusError
from vesalius.data.batch import IGNORE
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.bpe_training import train_bpe
from vesalius.tokenizers.chat import encode_chat
from vesalius.tokenizers.tokenizer import Tokenizer

PROMPTS = [[{"role": "user", "content": f"What is {i} + {i}?"}] for i in range(3)]
SEEDS = [100, 200, 300]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_bpe(train_bpe(["What is 3 + 4? It is 7. user assistant tool "] * 3, 280))


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Transformer:
    """One whose end of turn is likely enough to come now and then."""
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=256, initializer_range=0.3,
        tie_word_embeddings=False, dropout=0.1,
    )  # fmt: skip
    return Transformer(config, seed=1)


def sampler(model: Transformer, tokenizer: Tokenizer, **settings) -> Sampler:
    return Sampler(model, tokenizer, Dialogue(**{"max_tokens": 24, "context": 200} | settings))


def flat(groups: list[list[Episode]]) -> list[Episode]:
    return [episode for group in groups for episode in group]


def answer_back(text: str) -> str:
    return f"{len(text)} characters"


def test_the_engine_s_log_probabilities_are_the_trainer_s(model, tokenizer):
    """float32, 1e-4: paged attention and attention over a row sum in another order."""
    episodes = flat(sampler(model, tokenizer).sample(PROMPTS, 4, SEEDS))
    batch = lay_out(episodes)
    with torch.no_grad():
        logp = token_logprobs(model.eval(), batch.tokens, batch.targets)
    torch.testing.assert_close(logp, batch.sampled, atol=1e-4, rtol=0)
    assert batch.sampled.abs().max() > 1


def test_answers_are_whole_turns_with_their_end_or_cut_off(model, tokenizer):
    episodes = flat(sampler(model, tokenizer, max_tokens=60).sample(PROMPTS, 8, SEEDS))
    end = tokenizer.special_tokens["<|im_end|>"]
    assert {episode.truncated for episode in episodes} == {True, False}
    for episode in episodes:
        prompt = encode_chat(tokenizer, episode.messages, add_generation_prompt=True).ids
        said = episode.ids[len(prompt) :]
        assert episode.ids[: len(prompt)] == prompt
        assert episode.said == [False] * len(prompt) + [True] * len(said)
        assert (said[-1] in tokenizer.eos_ids) != episode.truncated
        assert episode.truncated == (len(said) == 60)
        assert episode.answer == tokenizer.decode([i for i in said if i not in tokenizer.eos_ids])
        assert end in tokenizer.eos_ids


def test_the_same_seeds_sample_the_same_whatever_was_sampled_before(model, tokenizer):
    fresh, used = sampler(model, tokenizer), sampler(model, tokenizer)
    used.sample(PROMPTS[:1], 3, [7])
    assert flat(fresh.sample(PROMPTS, 4, SEEDS)) == flat(used.sample(PROMPTS, 4, SEEDS))
    assert len({tuple(episode.ids) for episode in flat(fresh.sample(PROMPTS[:1], 4, [5]))}) == 4


def test_weights_that_changed_in_place_are_what_the_next_sampling_uses(model, tokenizer):
    changing = Transformer(model.config, seed=1)
    mine = sampler(changing, tokenizer)
    mine.sample(PROMPTS, 2, SEEDS)
    changing.load_state_dict(Transformer(model.config, seed=2).state_dict())
    other = sampler(Transformer(model.config, seed=2), tokenizer)
    assert flat(mine.sample(PROMPTS, 2, SEEDS)) == flat(other.sample(PROMPTS, 2, SEEDS))


def test_a_group_reads_its_prompt_once(model, tokenizer):
    mine = sampler(model, tokenizer, max_tokens=4)
    mine.sample(PROMPTS, 4, SEEDS)
    assert mine.hit_rate == pytest.approx(3 / 4, abs=1e-12)
    mine.sample([PROMPTS[0]], 1, [3])
    assert mine.hit_rate == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_in_evaluation_mode_meanwhile_and_as_before_afterwards(training, model, tokenizer):
    """In training mode it would drop out, which the engine refuses."""
    model.train(training)
    sampler(model, tokenizer).sample(PROMPTS, 2, SEEDS)
    assert model.training is training


def test_a_tool_answers_between_turns_until_they_are_used_up(model, tokenizer):
    mine = sampler(model, tokenizer, max_tokens=60, context=256, tool=answer_back, turns=3)
    episodes = flat(mine.sample(PROMPTS, 8, SEEDS))
    assert max(episode.turns for episode in episodes) > 1
    asked = read = 0
    for episode in episodes:
        assert tokenizer.decode(episode.ids).count("<|im_start|>tool\n") == episode.turns - 1
        starts = [i for i in range(1, len(episode.ids)) if episode.said[i] and not episode.said[i - 1]]
        assert len(starts) == episode.turns <= 3
        asked += sum(starts)
        heard = sum(not said for said in episode.said[starts[0] :])
        read += heard + (episode.turns - 1) * mine.engine.blocks.size  # a block that is not full is read again
    read += sum(len(mine.prompt_ids(prompt)) for prompt in PROMPTS)
    assert mine.hit_rate >= 1 - read / asked > 0


def test_a_tool_that_was_not_called_ends_the_episode(model, tokenizer):
    quiet = flat(sampler(model, tokenizer, tool=lambda _: None, turns=3).sample(PROMPTS, 4, SEEDS))
    assert quiet == flat(sampler(model, tokenizer).sample(PROMPTS, 4, SEEDS))


@given(seed=st.integers(0, 10_000), group=st.integers(1, 4), turns=st.integers(1, 3), masks=st.booleans())
@settings(max_examples=15, deadline=None)
def test_only_what_the_policy_said_has_a_gradient_and_every_end_of_its_turns_does(
    seed, group, turns, masks, model, tokenizer
):
    settings = {"tool": answer_back, "turns": turns} if turns > 1 else {}
    episodes = flat(sampler(model, tokenizer, **settings).sample(PROMPTS, group, [seed, seed + 9, seed + 20]))
    batch = lay_out(episodes, masks_truncated=masks)
    ends, seen = 0, batch.targets != IGNORE
    for row, episode in enumerate(episodes):
        following = [*episode.ids[1:], *[None] * (batch.tokens.shape[1] + 1 - len(episode.ids))]
        said = [*episode.said[1:], *[False] * (batch.tokens.shape[1] + 1 - len(episode.said))]
        if masks and episode.truncated:
            said = [False] * len(said)
        assert seen[row].tolist() == said
        assert all(t == f for t, f, s in zip(batch.targets[row].tolist(), following, said, strict=True) if s)
        ends += 0 if masks and episode.truncated else episode.turns - episode.truncated
    found = torch.isin(batch.targets, torch.tensor(list(tokenizer.eos_ids))).sum()
    assert int(found) == ends

    logits = model.eval()(batch.tokens).detach().requires_grad_()
    logp = logits.log_softmax(-1).gather(-1, batch.targets.clamp(min=0)[..., None])[..., 0]
    if seen.any():
        (logp * seen).sum().backward()
        assert torch.equal(logits.grad.abs().sum(-1) > 0, seen)


def test_a_prompt_that_leaves_no_room_is_an_error(model, tokenizer):
    with pytest.raises(UserError, match="leaves no room in the context of 10"):
        sampler(model, tokenizer, context=10).sample(PROMPTS, 1, SEEDS)


def test_broken_weights_are_told_and_leave_the_engine_empty(model, tokenizer):
    broken = Transformer(replace(model.config, dropout=0.0))
    mine = sampler(broken, tokenizer)
    torch.nn.init.constant_(broken.model.norm.weight, float("nan"))
    with pytest.raises(VesaliusError, match="not finite"):
        mine.sample(PROMPTS, 2, SEEDS)
    assert not mine.engine.has_work


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        ("<calc>37 + 48</calc>", "85"),
        ("so <calc> -(2 - 5) * 4 </calc>", "12"),
        ("<calc>1 / 8</calc>", "0.125"),
        ("<calc>1 / 0</calc>", "error: ZeroDivisionError"),
        ("<calc>2 ** 9999999</calc>", "error: ValueError"),
        ("<calc>__import__('os')</calc>", "error: ValueError"),
        ("<calc>1 +</calc>", "error: SyntaxError"),
        ("<calc>" + "9" * 101 + "</calc>", "error: longer than 100 characters"),
        ("no call", None),
        ("<calc>1</calc><calc>2</calc>", None),
    ],
)
def test_the_calculator(turn, expected):
    assert calculator(turn) == expected
