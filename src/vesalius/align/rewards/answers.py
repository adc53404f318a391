"""Where in a text the answer is. Each finder gives it, or None where there is none or more than one could be meant.

An answer that only stands in a thought is no answer, and a list of candidates is none either: a model that is rewarded
for the right one among many learns to write many. So whatever could be read in two ways is None.
"""

import re
from collections.abc import Callable

NUMBER = re.compile(r"(?<![\w.,])[-−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?(?![\w]|\.\d|,\d)")
"""A number as people write it: 1,234.5; not the digits of x2, 1.2.3 or 3rd."""

Find = Callable[[str], str | None]

_OPEN = re.compile(r"\s*(?:[-−+*×/,;|&]|or|and)?\s*")
"""Between the last two numbers: a list of guesses, or a computation that is not carried out."""

_THOUGHT = re.compile(r"\s*<think>(?:(?!</?think>).)*</think>((?:(?!</?think>).)*)", re.DOTALL)
_TAGGED = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)


def after_thinking(text: str) -> str | None:
    """What is said after the thought; the text itself where it has none. None where thoughts are nested, repeated, not
    first, or not ended.

    >>> after_thinking("<think>3 or 4?</think> 4.")
    ' 4.'
    """
    if "<think>" not in text and "</think>" not in text:
        return text
    match = _THOUGHT.fullmatch(text)
    return match[1] if match else None


def last_number(text: str) -> str | None:
    """The last number that is said; the words before it are the way to it.

    >>> last_number("17 + 25 is 42."), last_number("41, 42, 43"), last_number("0 + 42")
    ('42', None, None)
    """
    said = after_thinking(text)
    if said is None or not (found := list(NUMBER.finditer(said))):
        return None
    between = said[found[-2].end() : found[-1].start()] if len(found) > 1 else "is"
    return None if _OPEN.fullmatch(between) else found[-1][0]


def boxed(text: str) -> str | None:
    r"""What is in the one \\boxed{…}; braces inside it may be nested.

    >>> boxed(r"So it is \\boxed{\\frac{1}{2}}."), boxed(r"\\boxed{1} or \\boxed{2}")
    ('\\\\frac{1}{2}', None)
    """
    said = after_thinking(text)
    if said is None or said.count("\\boxed{") != 1:
        return None
    inside = said.partition("\\boxed{")[2]
    depth = 1
    for place, character in enumerate(inside):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return inside[:place].strip()
    return None


def tagged(text: str) -> str | None:
    """What is in the one <answer>…</answer> after the thought.

    >>> tagged("<think>6 × 7</think><answer>42</answer>"), tagged("<think><answer>42</answer></think>")
    ('42', None)
    """
    said = after_thinking(text)
    if said is None or said.count("<answer>") != 1 or said.count("</answer>") != 1:
        return None
    match = _TAGGED.search(said)
    return match[1].strip() if match else None


def whole(text: str) -> str | None:
    """All that is said after the thought.

    >>> whole("<think>Hm.</think>\\n Paris\\n")
    'Paris'
    """
    said = after_thinking(text)
    return said.strip() if said is not None else None


FINDERS: dict[str, Find] = {"last": last_number, "boxed": boxed, "tagged": tagged, "whole": whole}
"""By the name that a recipe gives."""
