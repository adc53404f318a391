"""Packed conversations: who speaks is trained, nobody else; nothing is cut, mixed or forgotten; resuming is exact."""

import itertools
import json
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vesalius.align.rows.encoding import encode_conversations
from vesalius.align.rows.packing import pack
from vesalius.align.sft.sft import PackedConversations
from vesalius.core.errors import UserError
from vesalius.data.batch import IGNORE, Batch
from vesalius.data.conversation import Conversation
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.bpe_training import train_bpe
from vesalius.tokenizers.chat import encode_chat
from vesalius.tokenizers.tokenizer import Tokenizer

CONTEXT = 96


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    text = "What does the sum do? It returns the sum of the parts. user assistant system "
    return Tokenizer.from_bpe(train_bpe([text * 3], 300))


def conversation(number: int, *turns: str, system: str = "") -> Conversation:
    messages = [{"role": "system", "content": system}] if system else []
    roles = itertools.cycle(("user", "assistant"))
    messages += [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=False)]
    return Conversation(messages, f"talk {number}", str(number))


def talks(count: int) -> list[Conversation]:
    return [conversation(i, f"What is {i}?", "It is " + "the sum of " * (i % 5) + f"{i}.") for i in range(count)]


def source(
    tokenizer: Tokenizer, conversations: list[Conversation], *, rows: int = 2, seed: int = 0
) -> PackedConversations:
    return packed_in(tokenizer, conversations, rows=rows, seed=seed)


def packed_in(
    tokenizer: Tokenizer, conversations: list[Conversation], *, rows: int = 1, context: int = CONTEXT, seed: int = 0
) -> PackedConversations:
    encoded = encode_conversations(conversations, tokenizer, context)
    return PackedConversations(encoded, batch_rows=rows, context=context, seed=seed)


def segments(batch: Batch) -> Iterator[tuple[list[int], list[int]]]:
    """Tokens and targets of everything that stands between two starts of positions."""
    assert batch.positions is not None
    for tokens, targets, positions in zip(batch.tokens, batch.targets, batch.positions, strict=True):
        starts = [*(positions == 0).nonzero().flatten().tolist(), len(tokens)]
        for start, end in itertools.pairwise(starts):
            assert positions[start:end].tolist() == list(range(end - start))
            yield tokens[start:end].tolist(), targets[start:end].tolist()


def one_epoch(packed: PackedConversations) -> Iterator[Batch]:
    """Batches of one row until the next epoch begins."""
    assert packed.batch_rows == 1
    epoch = packed.state_dict()["epoch"]
    while packed.state_dict()["epoch"] == epoch:
        yield next(packed)


def ids_of_one_epoch(packed: PackedConversations, tokenizer: Tokenizer) -> list[list[int]]:
    """The conversations of an epoch in their order, without padding."""
    found = [ids for batch in one_epoch(packed) for ids, _ in segments(batch)]
    return [ids for ids in found if ids[0] != tokenizer.bos_id]


text = st.text(max_size=12)
dialogues = st.lists(
    st.tuples(st.sampled_from(["", "Be brief."]), st.lists(text, min_size=2, max_size=5)), min_size=1, max_size=8
)


@given(dialogues=dialogues, seed=st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_every_conversation_is_whole_and_only_the_assistant_has_targets(dialogues, seed, tokenizer) -> None:
    conversations = [
        conversation(i, *[turn + "x" for turn in turns], system=system) for i, (system, turns) in enumerate(dialogues)
    ]
    packed = packed_in(tokenizer, conversations, context=600, seed=seed)
    expected = [encode_chat(tokenizer, one.messages) for one in conversations]
    found = [segment for batch in one_epoch(packed) for segment in segments(batch)]
    talks_found = [(ids, targets) for ids, targets in found if set(ids) != {tokenizer.bos_id}]
    assert sorted(ids for ids, _ in talks_found) == sorted(chat.ids for chat in expected)
    for ids, targets in found:
        if set(ids) == {tokenizer.bos_id}:
            assert set(targets) == {IGNORE}  # padding
            continue
        mask = next(chat.assistant_mask for chat in expected if chat.ids == ids)
        learned = [token if said else IGNORE for token, said in zip(ids, mask, strict=True)]
        assert targets == [*learned[1:], IGNORE]


@given(turns=st.lists(text, min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
def test_each_end_of_an_assistant_turn_is_learned_and_no_other_turn_s(turns, tokenizer) -> None:
    talk = conversation(0, *[part for turn in turns for part in (turn, turn + "x")], system="Be brief.")
    batch = next(packed_in(tokenizer, [talk], context=600))
    end = tokenizer.special_tokens["<|im_end|>"]
    assert (batch.targets == end).sum() == len(turns)
    assert not (batch.targets == tokenizer.special_tokens["<|im_start|>"]).any()
    assert not (batch.targets == tokenizer.bos_id).any()


def test_what_is_learned_reads_as_the_answers(tokenizer: Tokenizer) -> None:
    batch = next(source(tokenizer, [conversation(0, "Sum?", "It is 3.", "And?", "It is 4.", system="Add.")], rows=1))
    assert tokenizer.decode(batch.targets[batch.targets != IGNORE].tolist()) == "It is 3.<|im_end|>It is 4.<|im_end|>"


def test_a_packed_conversation_gets_the_logits_that_it_gets_alone(tokenizer: Tokenizer) -> None:
    """float32, tolerance 1e-5: the sums are the same, blocked differently."""
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=CONTEXT,
    )  # fmt: skip
    model = Transformer(config).eval()
    batch = next(source(tokenizer, talks(6), rows=1))
    with torch.no_grad():
        packed = model(batch.tokens, batch.positions)[0]
        start = 0
        for ids, _ in segments(batch):
            alone = model(torch.tensor([ids]))[0]
            torch.testing.assert_close(packed[start : start + len(ids)], alone, atol=1e-5, rtol=0)
            start += len(ids)


def test_shapes_and_names_of_a_batch(tokenizer: Tokenizer) -> None:
    batch = next(source(tokenizer, talks(20), rows=3))
    assert batch.tokens.shape == batch.targets.shape == (3, CONTEXT)
    assert batch.tokens.dtype == batch.targets.dtype == torch.int64
    assert batch.source.startswith("epoch 0: talk ")
    assert batch.source.count(" | ") == 2


@pytest.mark.parametrize("buffer", [7, 2048])
def test_an_epoch_has_every_conversation_once(
    buffer: int, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vesalius.align.rows.packing.BUFFER", buffer)
    found = ids_of_one_epoch(source(tokenizer, talks(30), rows=1), tokenizer)
    assert sorted(found) == sorted(encode_chat(tokenizer, talk.messages).ids for talk in talks(30))


def test_the_next_epoch_has_the_same_conversations_in_another_order(tokenizer: Tokenizer) -> None:
    packed = source(tokenizer, talks(30), rows=1)
    first, second = ids_of_one_epoch(packed, tokenizer), ids_of_one_epoch(packed, tokenizer)
    assert sorted(first) == sorted(second)
    assert first != second


@pytest.mark.parametrize("batches_before", [0, 1, 7, 23])
def test_a_state_through_json_goes_on_exactly(batches_before: int, tokenizer: Tokenizer) -> None:
    packed, resumed = source(tokenizer, talks(30)), source(tokenizer, talks(30))
    for _ in range(batches_before):
        next(packed)
    resumed.load_state_dict(json.loads(json.dumps(packed.state_dict())))
    for _ in range(12):
        one, other = next(packed), next(resumed)
        assert torch.equal(one.tokens, other.tokens)
        assert torch.equal(one.targets, other.targets)
        assert one.source == other.source


@pytest.mark.parametrize("change", ["seed", "conversations"])
def test_a_state_of_other_data_or_settings_is_refused(change: str, tokenizer: Tokenizer) -> None:
    state = source(tokenizer, talks(30)).state_dict()
    other = source(tokenizer, talks(29 if change == "conversations" else 30), seed=int(change == "seed"))
    with pytest.raises(UserError, match="resume with the same files"):
        other.load_state_dict(state)


def test_the_seed_decides_the_order(tokenizer: Tokenizer) -> None:
    first, same, other = (next(source(tokenizer, talks(30), seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(first.tokens, same.tokens)
    assert not torch.equal(first.tokens, other.tokens)


def test_a_conversation_that_fills_the_context_fits(tokenizer: Tokenizer) -> None:
    talk = talks(1)[0]
    length = len(encode_chat(tokenizer, talk.messages).ids)
    packed = packed_in(tokenizer, [talk], context=length)
    assert next(packed).weight == sum(encode_chat(tokenizer, talk.messages).assistant_mask)


@given(lengths=st.lists(st.integers(1, 20), max_size=40))
def test_packing_uses_everything_once_within_the_capacity(lengths: list[int]) -> None:
    rows = pack(range(len(lengths)), lengths, capacity=20)
    assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
    assert all(sum(lengths[number] for number in row) <= 20 for row in rows)


@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=40))
def test_packing_leaves_no_two_rows_that_would_fit_in_one(lengths: list[int]) -> None:
    filled = sorted(sum(lengths[number] for number in row) for row in pack(range(len(lengths)), lengths, capacity=20))
    assert len(filled) == 1 or filled[0] + filled[1] > 20
