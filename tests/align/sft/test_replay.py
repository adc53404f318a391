"""Text among conversations: every token of it is learned, it has its share, and the conversations keep theirs."""

from itertools import chain

import pytest
from align.talks import CONTEXT, talks

from vesalius.align.rows.encoding import encode_conversations
from vesalius.align.sft.replay import encode_replay, with_replay
from vesalius.align.sft.sft import PackedConversations
from vesalius.data.batch import IGNORE
from vesalius.data.document import Document
from vesalius.tokenizers.tokenizer import Tokenizer

TEXTS = [f"{i}: " + "It returns the sum of the parts. " * (i * 7 % 23) for i in range(20)]
DOCUMENTS = [Document(text, f"page {i}", str(i)) for i, text in enumerate(TEXTS)]


def test_the_pieces_of_a_document_are_its_tokens_behind_a_boundary(tokenizer: Tokenizer):
    replay = encode_replay(DOCUMENTS, tokenizer, CONTEXT)
    for number, text in enumerate(TEXTS):
        pieces = [replay.spans[i] for i, name in enumerate(replay.names) if name == f"page {number}"]
        whole = [tokenizer.document_boundary, *tokenizer.encode(text)]
        found = list(chain.from_iterable(ids.tolist() for ids, _ in pieces))
        assert found == whole[: len(found)]
        assert len(whole) - len(found) <= 1
        assert all(1 < len(ids) <= CONTEXT and marks.all() for ids, marks in pieces)
    assert {*replay.origins} == {"replay"}


def test_whatever_the_order_of_the_text_the_same_is_read(tokenizer: Tokenizer):
    one, other = (encode_replay(list(texts), tokenizer, CONTEXT) for texts in (DOCUMENTS, reversed(DOCUMENTS)))
    assert one.names == other.names


@pytest.mark.parametrize("shares", [None, {"a": 1.0, "b": 3.0}])
def test_text_has_its_share_of_the_tokens_and_the_sources_theirs_of_the_rest(shares, tokenizer: Tokenizer):
    conversations = talks(20, origin="a") + talks(40, first=20, origin="b")
    encoded = encode_conversations(conversations, tokenizer, CONTEXT)
    both, weights = with_replay(encoded, encode_replay(DOCUMENTS, tokenizer, CONTEXT), 0.25, shares)
    assert weights["replay"] == 0.25
    assert sum(weights.values()) == pytest.approx(1)
    lengths = dict.fromkeys("ab", 0)
    for origin, length in zip(encoded.origins, encoded.spans.lengths, strict=True):
        lengths[origin] += int(length)
    expected = lengths if shares is None else shares
    assert weights["b"] / weights["a"] == pytest.approx(expected["b"] / expected["a"])
    batches = PackedConversations(both, batch_rows=8, context=CONTEXT, seed=0, weights=weights)
    seen = dict.fromkeys(weights, 0)
    for _, rows in (batches.next_with_rows() for _ in range(300)):
        for number in chain.from_iterable(rows):
            seen[both.origins[number]] += int(both.spans.lengths[number])
    total = sum(seen.values())
    assert {name: count / total for name, count in seen.items()} == pytest.approx(weights, abs=0.01)


def test_every_token_of_text_is_a_target_and_of_a_conversation_only_what_the_assistant_says(tokenizer: Tokenizer):
    encoded = encode_conversations(talks(5, origin="a"), tokenizer, CONTEXT)
    both, weights = with_replay(encoded, encode_replay(DOCUMENTS, tokenizer, CONTEXT), 0.5, None)
    assert both.spans[2][1].tolist() == encoded.spans[2][1].tolist()
    batches = PackedConversations(both, batch_rows=4, context=CONTEXT, seed=0, weights=weights)
    for batch, rows in (batches.next_with_rows() for _ in range(5)):
        for tokens, targets, row in zip(batch.tokens, batch.targets, rows, strict=True):
            start = 0
            for number in row:
                end = start + int(both.spans.lengths[number])
                if both.origins[number] == "replay":
                    assert targets[start : end - 1].tolist() == tokens[start + 1 : end].tolist()
                    assert targets[end - 1] == IGNORE
                start = end
