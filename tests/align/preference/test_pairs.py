"""Packed pairs: only answers have targets, pairs stay together, nothing is lost unnamed, and resuming is exact."""

import itertools
import json

import pytest
import torch
from align.preferences import LAYOUT, pair, pairs, said, user
from align.tiny_models import make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from vesalius.align.preference.pairs import PackedPairs, encode_pairs
from vesalius.align.rows.answer_rows import Layout
from vesalius.align.rows.items import batch_of, each_once, encode_answers
from vesalius.core.errors import UserError
from vesalius.data.batch import IGNORE
from vesalius.data.preference import Pair
from vesalius.tokenizers.chat import encode_chat
from vesalius.tokenizers.chat_template import BREAK, END_SAID, SAID
from vesalius.tokenizers.tokenizer import Tokenizer


def source(tokenizer: Tokenizer, data: list[Pair], layout: Layout = LAYOUT, *, seed: int = 0) -> PackedPairs:
    return PackedPairs(encode_pairs(data, tokenizer, layout), layout, seed=seed)


text = st.text(st.characters(exclude_characters=BREAK + SAID + END_SAID, exclude_categories=["Cs"]), max_size=10)
dialogues = st.lists(
    st.tuples(st.sampled_from(["", "Be brief."]), st.lists(text, max_size=2), text, text, st.booleans()),
    min_size=1,
    max_size=5,
)


@given(dialogues=dialogues, shared=st.booleans())
@settings(max_examples=40, deadline=None)
def test_the_targets_are_the_answers_and_nothing_else(dialogues, shared: bool, tokenizer: Tokenizer) -> None:
    """No system, user or earlier turn, no line end after a turn and no padding is a target; each end of turn is."""
    data = []
    for number, (system, earlier, chosen, rejected, goes_on) in enumerate(dialogues):
        prompt = [{"role": "system", "content": system}] if system else []
        for turn in earlier:
            prompt += [user(turn), said(turn + "x")]
        more = [user("And?"), said("Yes.")] if goes_on else []
        answers = ([said(text), *more] for text in (chosen + "c", rejected + "r"))
        data.append(Pair([*prompt, user("?")], *answers, str(number), ""))
    layout = Layout(rows=1, context=4000, shared=shared)
    items = encode_pairs(data, tokenizer, layout)
    [[row]] = each_once(items, range(len(items)), layout)
    batch = batch_of(items, [row], layout)
    end, start = (tokenizer.special_tokens[token] for token in ("<|im_end|>", "<|im_start|>"))
    order = [data[number] for number in row]
    for place, answer in enumerate(answer for one in order for answer in (one.chosen, one.rejected)):
        mine = batch.targets[(batch.answer == place) & (batch.targets != IGNORE)]
        turns = [turn["content"] for turn in answer if turn["role"] == "assistant"]
        assert tokenizer.decode(mine.tolist()) == "".join(f"{turn}<|im_end|>" for turn in turns)
        assert (mine == end).sum() == len(turns)
    assert not (batch.targets == start).any()


def test_prompt_and_answer_together_are_the_conversation(tokenizer: Tokenizer) -> None:
    """What a model is trained to say follows exactly the ids that it is asked with, up to the end of its turn."""
    one = pair(3)
    prompt, answers = encode_answers(tokenizer, one.prompt, (one.chosen, one.rejected), "here")
    assert prompt == encode_chat(tokenizer, one.prompt, add_generation_prompt=True).ids
    for (ids, _), answer in zip(answers, (one.chosen, one.rejected), strict=True):
        whole = encode_chat(tokenizer, one.prompt + answer).ids
        assert whole[: len(prompt) + len(ids)] == prompt + ids
        assert ids[-1] == tokenizer.special_tokens["<|im_end|>"]


def test_a_row_has_whole_pairs_only(tokenizer: Tokenizer) -> None:
    batch = next(source(tokenizer, pairs(30)))
    assert batch.tokens.shape == (2, 128)
    assert all(count % 2 == 0 and count > 0 for count in batch.counts)
    for row, part in enumerate(batch.split(1)):
        assert torch.equal(part.tokens[0], batch.tokens[row])
        assert part.answer.max() == part.weight - 1


@pytest.mark.parametrize("shared", [False, True])
def test_an_epoch_has_every_pair_once(tokenizer: Tokenizer, shared: bool) -> None:
    packed = source(tokenizer, pairs(30), Layout(rows=1, context=128, shared=shared))
    found = []
    while packed.state_dict()["epoch"] == 0:
        batch = next(packed)
        found += [batch.targets[(batch.answer == i) & (batch.targets != IGNORE)].tolist() for i in range(batch.weight)]
    expected = [encode_answers(tokenizer, p.prompt, (p.chosen, p.rejected), "")[1] for p in pairs(30)]
    assert sorted(found) == sorted(ids for answers in expected for ids, _ in answers)


@pytest.mark.parametrize("batches_before", [0, 1, 9])
def test_a_state_through_json_goes_on_exactly(batches_before: int, tokenizer: Tokenizer) -> None:
    packed, resumed = source(tokenizer, pairs(30)), source(tokenizer, pairs(30))
    for _ in range(batches_before):
        next(packed)
    resumed.load_state_dict(json.loads(json.dumps(packed.state_dict())))
    for _ in range(12):
        one, other = next(packed), next(resumed)
        assert torch.equal(one.tokens, other.tokens)
        assert one.source == other.source


@pytest.mark.parametrize("change", ["seed", "pairs", "layout"])
def test_a_state_of_other_data_or_settings_is_refused(change: str, tokenizer: Tokenizer) -> None:
    layout = Layout(rows=2, context=128, shared=False) if change == "layout" else LAYOUT
    other = source(tokenizer, pairs(29 if change == "pairs" else 30), layout, seed=int(change == "seed"))
    with pytest.raises(UserError, match="resume with the same files"):
        other.load_state_dict(source(tokenizer, pairs(30)).state_dict())


def test_the_reference_of_a_batch_is_that_of_its_pairs(tokenizer: Tokenizer) -> None:
    items = encode_pairs(pairs(30), tokenizer, LAYOUT)
    reference = items.spans.lengths.reshape(-1, 3)[:, 1:].copy()  # of each answer its length stands for its value
    batches = PackedPairs(items, LAYOUT, seed=0, reference=torch.from_numpy(reference).float())
    for batch in itertools.islice(batches, 8):
        lengths = torch.bincount(batch.answer[batch.targets != IGNORE], minlength=batch.weight)
        assert torch.equal(batch.reference, lengths.float())


def test_what_cannot_be_used_is_dropped_counted_and_named(tokenizer: Tokenizer) -> None:
    same, long = pair(7, chosen="same", rejected="same"), pair(8, chosen="never " * 99)
    items = encode_pairs([*pairs(3), same, long, pair(9, rejected="n " * 99)], tokenizer, LAYOUT)
    assert items.dropped == {
        "longer than 128 tokens": ["pair 8", "pair 9"],
        "chosen equal to rejected": ["pair 7"],
    }
    assert items.names == ["pair 0", "pair 1", "pair 2"]


def test_nothing_left_is_an_error_that_tells_why(tokenizer: Tokenizer) -> None:
    with pytest.raises(
        UserError, match=r"no judged answer can be used: 1 chosen equal to rejected \(the first: pair 0\)"
    ):
        encode_pairs([pair(0, chosen="a", rejected="a")], tokenizer, LAYOUT)
    with pytest.raises(UserError, match="there are no judged answers"):
        encode_pairs([], tokenizer, LAYOUT)


def test_a_template_that_takes_no_system_prompt_is_told_by_name() -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    data = Pair([{"role": "system", "content": "Be kind."}, user("a")], [said("b")], [said("c")], "pairs.jsonl:5", "")
    with pytest.raises(UserError, match=r"pairs\.jsonl:5.*no system"):
        encode_pairs([data], make_tokenizer(template), LAYOUT)
