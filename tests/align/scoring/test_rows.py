"""Judged answers in rows: every number stands at its answer's last token, nothing is mixed, resuming is exact."""

import itertools
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vesalius.align.rows.answer_rows import Layout
from vesalius.align.scoring.batch import ScoredBatch
from vesalius.align.scoring.items import Item, pair_items, score_items, step_items
from vesalius.align.scoring.model import STEPS, ScoringModel
from vesalius.align.scoring.rows import PackedScores, collect, each_once, scored_batch
from vesalius.core.errors import UserError
from vesalius.data.preference import Pair, ScoredAnswer
from vesalius.data.solution import Solution
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.bpe_training import train_bpe
from vesalius.tokenizers.chat import encode_chat
from vesalius.tokenizers.tokenizer import Tokenizer

TOKENIZER = Tokenizer.from_bpe(train_bpe(["What is the sum of the two? It is three. " * 3], 275))
SHARED, APART = (Layout(rows=2, context=40, shared=shared, ends=True) for shared in (True, False))


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def model(labels: int = 1, **changes) -> ScoringModel:
    sizes = {
        "vocab_size": TOKENIZER.vocab_size, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "initializer_range": 0.2,
    }  # fmt: skip
    return ScoringModel.on(Transformer(ModelConfig.from_dict(sizes | changes), seed=1), labels, seed=2).eval()


lengths = st.integers(1, 6)
items_of_ids = st.lists(st.tuples(lengths, lengths, lengths), min_size=1, max_size=12)


def made(sizes: list[tuple[int, int, int]]) -> list[Item]:
    """Items of distinct ids, whose numbers tell which they are."""
    ids = itertools.count(3)

    def run(length: int) -> list[int]:
        return [next(ids) % 270 for _ in range(length)]

    return [
        Item(f"item {i}", run(p), ((run(a), {a - 1: float(2 * i)}), (run(b), {b - 1: float(2 * i + 1)})))
        for i, (p, a, b) in enumerate(sizes)
    ]


@settings(deadline=None, max_examples=60)
@given(items_of_ids, st.booleans(), st.integers(1, 3))
def test_only_last_tokens_of_answers_have_a_number_and_every_answer_has_its_own(sizes, shared, rows):
    items, layout = made(sizes), Layout(rows=rows, context=24, shared=shared, ends=True)
    found: dict[float, list[int]] = {}
    for _, batch in each_once(collect(items, TOKENIZER, layout, answers=2), layout):
        for tokens, positions, targets in zip(batch.tokens, batch.positions, batch.targets, strict=True):
            for place in (~targets.isnan()).nonzero().flatten().tolist():
                end, answer = int(positions[place]), [int(tokens[place])]
                while place and len(answer) < end + 1 and int(positions[place - 1]) == int(positions[place]) - 1:
                    place -= 1
                    answer.insert(0, int(tokens[place]))
                found[float(targets[place + len(answer) - 1])] = answer
    for item in items:
        for ids, numbers in item.answers:
            [number] = numbers.values()
            assert found.pop(number)[-len(ids) :] == ids
    assert not found


def test_a_pair_gives_its_two_rewards_by_turns_whether_the_prompt_is_shared_or_not():
    """…and each is that of the answer alone behind its prompt: no answer sees another."""
    items, head = made([(4, 3, 5), (2, 6, 1), (5, 2, 2)]), model()
    alone = [[head(torch.tensor([item.prompt + ids]))[0, -1, 0] for ids, _ in item.answers] for item in items]
    for layout in (SHARED, APART):
        collected = collect(items, TOKENIZER, layout, answers=2)
        for numbers, batch in each_once(collected, layout):
            rewards = head.at(batch.tokens, batch.positions, batch.scored).view(-1, 2)
            expected = torch.stack([torch.stack(alone[number]) for number in numbers])
            torch.testing.assert_close(rewards, expected, atol=2e-6, rtol=1e-5)
            assert batch.wanted.view(-1, 2)[:, 0].tolist() == [2.0 * number for number in numbers]


def test_a_shared_prompt_takes_its_places_once():
    [item] = made([(5, 3, 4)])
    for layout, places in ((SHARED, 12), (APART, 17)):
        collected = collect([item], TOKENIZER, layout, answers=2)
        assert collected.items.lengths(layout).tolist() == [places]
    batch = scored_batch(collect([item], TOKENIZER, SHARED, answers=2), [[0]], SHARED)
    assert batch.positions[0, :12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 5, 6, 7, 8]


def test_pairs_scores_and_steps_have_their_numbers_where_answers_and_steps_end():
    pair = Pair(user("What is the sum?"), said("It is three."), said("two"), "p", "p", margin=1.5)
    [item] = pair_items([pair], TOKENIZER)
    whole = encode_chat(TOKENIZER, pair.prompt + pair.chosen)
    end = max(place for place, of_assistant in enumerate(whole.assistant_mask) if of_assistant)
    ids, numbers = item.answers[0]
    assert item.prompt + ids == whole.ids[: end + 1]
    assert ids[-1] == TOKENIZER.special_tokens["<|im_end|>"]
    assert numbers == {len(ids) - 1: 1.5}
    assert list(item.answers[1][1].values()) == [0.0]
    [scored] = score_items([ScoredAnswer(user("What?"), said("three"), -0.5, "s", "s")], TOKENIZER)
    [(ids, numbers)] = scored.answers
    assert numbers == {len(ids) - 1: -0.5}
    solution = Solution(user("sum?"), ("It is two", "three"), (True, False), "x", "x")
    [steps] = step_items([solution], TOKENIZER, "\n")
    [(ids, numbers)] = steps.answers
    newline = TOKENIZER.encode("\n")
    assert ids == TOKENIZER.encode("It is two") + newline + TOKENIZER.encode("three") + newline
    assert [(ids[place], number) for place, number in numbers.items()] == [(newline[-1], 1.0), (newline[-1], 0.0)]


def test_no_token_but_the_scored_ones_has_a_gradient_at_its_output():
    """The gradient of the head's output is 0 at every prompt and padding token."""
    head, items = model(STEPS), made([(4, 3, 5), (2, 6, 1)])
    layout = Layout(rows=2, context=24, shared=True, ends=True)
    batch = next(PackedScores(collect(items, TOKENIZER, layout, answers=2), layout, seed=0))
    out = head(batch.tokens, batch.positions)
    out.retain_grad()
    out[batch.scored].square().sum().backward()
    assert torch.equal(out.grad.abs().sum(-1) > 0, batch.scored)


def test_what_does_not_fit_and_what_is_the_same_is_dropped_and_named():
    ids = [5, 6, 7]
    same = Item("twins", [3], ((ids, {2: 0.0}), (ids, {2: 0.0})))
    items = [same, *made([(4, 3, 5), (30, 9, 9)])]
    collected = collect(items, TOKENIZER, SHARED, answers=2)
    assert collected.items.names == ["item 0"]
    assert collected.items.dropped == {"longer than 40 tokens": ["item 1"], "chosen equal to rejected": ["twins"]}
    with pytest.raises(
        UserError, match=r"no judged answer can be used: 1 chosen equal to rejected \(the first: twins\)"
    ):
        collect([same], TOKENIZER, SHARED, answers=2)
    with pytest.raises(UserError, match="the files are empty, or the split left none"):
        collect([], TOKENIZER, SHARED, answers=2)


def test_resuming_gives_the_same_batches():
    items = collect(made([(3, 2, 4)] * 30), TOKENIZER, SHARED, answers=2)
    source = PackedScores(items, SHARED, seed=3)
    for _ in range(5):
        next(source)
    state = json.loads(json.dumps(source.state_dict()))
    following = [next(source) for _ in range(12)]
    again = PackedScores(items, SHARED, seed=3)
    again.load_state_dict(state)
    for one, other in zip(following, (next(again) for _ in range(12)), strict=True):
        assert torch.equal(one.tokens, other.tokens)
        assert torch.equal(one.targets.nan_to_num(-1), other.targets.nan_to_num(-1))
        assert one.source == other.source
    others = PackedScores(collect(made([(3, 2, 4)] * 29), TOKENIZER, SHARED, answers=2), SHARED, seed=3)
    with pytest.raises(UserError, match="resume with the same files"):
        others.load_state_dict(state)


def test_numbers_are_part_of_the_identity():
    items = made([(3, 2, 4)])
    changed = [Item(item.name, item.prompt, ((item.answers[0][0], {1: 9.0}), item.answers[1])) for item in items]
    one, other = (collect(some, TOKENIZER, SHARED, answers=2).fingerprint("") for some in (items, changed))
    assert one != other


def test_split_keeps_rows_and_weighs_by_numbers():
    batch = ScoredBatch(
        tokens=torch.zeros(3, 2, dtype=torch.int64),
        positions=torch.zeros(3, 2, dtype=torch.int64),
        targets=torch.tensor([[1.0, torch.nan], [torch.nan, torch.nan], [2.0, 3.0]]),
    )
    assert [part.weight for part in batch.split(1)] == [1, 0, 2]
    assert batch.weight == 3
    assert torch.cat([part.wanted for part in batch.split(2)]).tolist() == batch.wanted.tolist() == [1.0, 2.0, 3.0]
