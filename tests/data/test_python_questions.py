"""Questions and answers about members: what is asked, what is answered, what is left alone."""

import json
import re
from itertools import islice

import pytest

from vesalius.data.conversation import Conversation
from vesalius.data.docstrings import Member, ModuleName, source_members
from vesalius.data.python_corpus import python_members
from vesalius.data.python_questions import conversations_about, purpose_question, python_topics

SHOP = '''
"""This module sells things."""

def sell(item, *, price=1, **options):
    """Remove one item and return the change.

    A detail that no answer tells.
    """

def close():
    """Close the shop."""

def _count():
    """Count the money in secret."""

def undocumented_prose():
    """>>> undocumented_prose()"""

class Till:
    """Money that was taken today."""

    def __len__(self):
        """Return the number of coins."""

    def empty(self):
        """Close the shop."""
'''


def members(source: str = SHOP, module: str = "shop") -> list[Member]:
    return list(source_members(ModuleName(module, "split by " + module), source))


@pytest.fixture(scope="module")
def conversations() -> dict[str, Conversation]:
    return {conversation.name: conversation for conversation in conversations_about(members())}


def answers(conversation: Conversation) -> list[str]:
    return [message["content"] for message in conversation.messages if message["role"] == "assistant"]


def test_the_purpose_is_the_first_sentence_as_a_statement(conversations: dict[str, Conversation]) -> None:
    assert answers(conversations["shop.sell#purpose"])[0] == "It removes one item and returns the change."


def test_a_class_is_said_to_be_one(conversations: dict[str, Conversation]) -> None:
    assert answers(conversations["shop.Till#purpose"])[0] == "It is a class of `shop`. Money that was taken today."


def test_the_call_is_the_signature_or_its_parameters(conversations: dict[str, Conversation]) -> None:
    assert answers(conversations["shop.sell#call"])[0] in (
        "`shop.sell(item, *, price=1, **options)`",
        "It takes three parameters: `item`, `price` and `**options`.",
    )


def test_no_parameters_are_said_to_be_none(conversations: dict[str, Conversation]) -> None:
    assert answers(conversations["shop.close#call"])[0] in ("`shop.close()`", "It takes no parameters.")


def test_the_home_names_the_module(conversations: dict[str, Conversation]) -> None:
    assert answers(conversations["shop.sell#home"])[0] in (
        "`sell` is in the module `shop`.",
        "`from shop import sell`",
    )


def test_a_search_asks_with_the_statement_and_answers_with_the_name(conversations: dict[str, Conversation]) -> None:
    question, answer = conversations["shop.sell#search"].messages[:2]
    assert question["content"] == "Which function of `shop` removes one item and returns the change?"
    assert answer["content"] == "`shop.sell` does."


def test_a_name_in_two_modules_has_no_home() -> None:
    both = members() + members(module="market")
    assert not [conversation for conversation in conversations_about(both) if conversation.name.endswith("sell#home")]


def test_a_deed_of_two_members_is_not_searched() -> None:
    twins = members('def a():\n    """Do the same thing."""\ndef b():\n    """Do the same thing."""')
    assert not [conversation for conversation in conversations_about(twins) if "#search" in conversation.name]


def test_private_dunder_and_undescribed_members_are_left_alone(conversations: dict[str, Conversation]) -> None:
    names = {name.partition("#")[0] for name in conversations}
    assert names == {"shop", "shop.sell", "shop.close", "shop.Till", "shop.Till.empty"}


def test_the_split_key_is_that_of_the_module(conversations: dict[str, Conversation]) -> None:
    assert {conversation.split_key for conversation in conversations.values()} == {"split by shop"}


def test_what_is_built_in_is_called_by_its_short_name() -> None:
    [topic] = python_topics(members('def sorted(a):\n    """Return a new sorted list."""', "builtins"))
    assert purpose_question(topic) == "What does `sorted` do?"


def test_the_same_members_give_the_same_conversations() -> None:
    assert list(conversations_about(members())) == list(conversations_about(members()))


def test_a_member_is_worded_alike_whatever_else_is_asked_about(conversations: dict[str, Conversation]) -> None:
    alone = [member for member in members() if member.qualname == "sell"]
    assert all(conversation == conversations[conversation.name] for conversation in conversations_about(alone))


@pytest.fixture(scope="module")
def library() -> list[Conversation]:
    return list(conversations_about(islice(python_members(), 1500)))


def test_the_library_gives_thousands(library: list[Conversation]) -> None:
    assert len(library) > 2000
    assert sum(len(conversation.messages) > 2 for conversation in library) > 200


def test_turns_alternate_and_answers_are_short_clean_lines(library: list[Conversation]) -> None:
    for conversation in library:
        roles = [message["role"] for message in conversation.messages]
        assert roles == ["user", "assistant"] * (len(roles) // 2), conversation.name
        for answer in answers(conversation):
            assert 0 < len(answer) <= 300, conversation.name
            assert answer.isprintable(), conversation.name
            assert answer.count("`") % 2 == 0, conversation.name
            assert answer[-1] in ".`", conversation.name
            assert not re.search(r"\.\.|>>>|``|:\w+:`|  ", answer), conversation.name
    assert len({json.dumps(conversation.messages) for conversation in library}) == len(library)
