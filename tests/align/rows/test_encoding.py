"""What fits is kept, what is too long is counted and named, and what the template cannot say stops."""

import pytest
from align.talks import CONTEXT, talk, talks
from align.tiny_models import make_tokenizer

from vesalius.align.rows.encoding import encode_conversations
from vesalius.core.errors import UserError
from vesalius.data.conversation import Conversation
from vesalius.tokenizers.tokenizer import Tokenizer

DEAF = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}?{% elif m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}{% endgeneration %}{% endif %}{% endfor %}"
)
"""A template that leaves system messages out."""

REFUSING = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + DEAF
SILENT = "{% for m in messages %}{{ m.content }}{% generation %}{% endgeneration %}{% endfor %}"


def test_what_is_longer_than_the_context_is_dropped_and_named(tokenizer: Tokenizer) -> None:
    encoded = encode_conversations([*talks(3), talk(99, "never " * CONTEXT)], tokenizer, CONTEXT)
    assert encoded.dropped == {"longer than 96 tokens": ["talks:99"]}
    assert encoded.names == ["talks:0", "talks:1", "talks:2"]
    assert len(encoded) == len(encoded.spans) == 3


def test_all_too_long_is_an_error_that_names_the_context(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match=r"all 1 conversations are longer than the context of 96 tokens .*talks:99"):
        encode_conversations([talk(99, "never " * CONTEXT)], tokenizer, CONTEXT)


def test_no_conversation_at_all_is_an_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="no conversations"):
        encode_conversations([], tokenizer, CONTEXT)


def test_what_the_template_refuses_is_told_with_the_conversation_s_name(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="chat:7: "):
        encode_conversations([Conversation([{"role": "owl", "content": "Hoo"}], "chat:7", "7")], tokenizer, CONTEXT)


def test_a_template_that_leaves_the_system_message_out_is_told_with_the_conversation_s_name() -> None:
    conversations = [*talks(2), talk(7, system="Be brief.")]
    with pytest.raises(UserError, match=r"talks:7 has a system message, for which .* no place: put it into the first"):
        encode_conversations(conversations, make_tokenizer(DEAF), CONTEXT)
    assert len(encode_conversations(talks(2), make_tokenizer(DEAF), CONTEXT)) == 2


def test_a_template_that_refuses_the_system_message_is_told_with_its_own_words() -> None:
    with pytest.raises(UserError, match=r"talks:7: .*no system role"):
        encode_conversations([talk(7, system="Be brief.")], make_tokenizer(REFUSING), CONTEXT)


def test_a_template_that_writes_no_answer_is_told() -> None:
    with pytest.raises(UserError, match="talks:0: the chat template writes nothing that the assistant says"):
        encode_conversations(talks(2), make_tokenizer(SILENT), CONTEXT)


def test_sources_are_told_by_their_places(tokenizer: Tokenizer) -> None:
    conversations = [*talks(2, origin="a"), *talks(3, origin="b"), *talks(1, origin="a")]
    encoded = encode_conversations(conversations, tokenizer, CONTEXT)
    assert encoded.sources(["b", "a"]).tolist() == [1, 1, 0, 0, 0, 1]
