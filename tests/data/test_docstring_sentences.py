"""A docstring gives one clean sentence or none, and a sentence becomes a statement only where that is safe."""

import pytest

from vesalius.data.docstring_sentences import LONGEST, as_statement, first_sentence


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        ("Serialize ``obj`` to a ``str``.\n\nMore.", "Serialize `obj` to a `str`."),
        ("Join the parts, e.g. a and b. Then stop.", "Join the parts, e.g. a and b."),
        ("Return weekday and number of days for\nyear, month.", "Return weekday and number of days for year, month."),
        ("Run the command\nReturns its exit status.", "Run the command."),
        ("getch([y, x])\nGet a character code.", "Get a character code."),
        ("S.append(value) -- append value to the end", "Append value to the end."),
        ("Make a :class:`~queue.Queue` of *maxsize*.", "Make a `queue.Queue` of `maxsize`."),
        ("Do all sorts of things, etc.", "Do all sorts of things, etc."),
    ],
    ids=["markup", "abbreviation", "wrapped", "no full stop", "signature line", "signature first", "roles", "etc"],
)
def test_first_sentence(docstring: str, sentence: str) -> None:
    assert first_sentence(docstring) == sentence


@pytest.mark.parametrize(
    "docstring",
    [
        "",
        ">>> add(1, 2)\n3",
        "Internal function, do not call.",
        "Copyright (C) 2001 Python Software Foundation.",
        "Deprecated, use format_string instead.",
        "Hash.",
        "od.pop(k[,d]) -> v, remove specified key",
        "Return one of the following:\n- a\n- b",
        "See RFC 2822 for all details.",
        "Return the (unbalanced text.",
        "Return " + "very " * LONGEST + "much.",
    ],
)
def test_what_is_no_clean_sentence_is_refused(docstring: str) -> None:
    assert first_sentence(docstring) is None


@pytest.mark.parametrize(
    ("sentence", "statement"),
    [
        ("Return the sum.", "It returns the sum."),
        ("Returns the sum.", "It returns the sum."),
        ("Open the file and return its content.", "It opens the file and returns its content."),
        ("Enable or disable tracking.", "It enables or disables tracking."),
        ("Send a command, and return the reply.", "It sends a command, and returns the reply."),
        ("Recursively delete a tree.", "It recursively deletes a tree."),
        ("Copy a file.", "It copies a file."),
        ("Test whether a path exists.", "It tests whether a path exists."),
        ("A queue that is empty.", "It is a queue that is empty."),
        ("Abstract base class for time zones.", "It is an abstract base class for time zones."),
        ("Raised when nothing is left.", "It is raised when nothing is left."),
    ],
)
def test_a_command_or_a_noun_becomes_a_statement(sentence: str, statement: str) -> None:
    assert as_statement(sentence) == statement


@pytest.mark.parametrize(
    "sentence",
    [
        "Test program for telnetlib.",  # a noun, not a command
        "List of all names.",
        "A set is a finite, iterable container.",  # has a verb of its own
        "True if the file is open.",
        "Try to open and return the file.",  # which "return" is meant cannot be told
        "Import a module; handle errors.",
    ],
)
def test_what_cannot_be_turned_safely_stays_as_it_is(sentence: str) -> None:
    assert as_statement(sentence) == sentence
