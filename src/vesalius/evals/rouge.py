"""ROUGE-L: how much of a reference an answer says in the same order. Lin 2004, "ROUGE: A Package for Automatic
Evaluation of Summaries", section 3.1.

With ℓ the longest common subsequence of the words of both:

    precision = ℓ / words of the answer,  recall = ℓ / words of the reference,  F1 = 2·P·R / (P + R)

Words are runs of a-z and 0-9 in lower case and everything else is a border, as in the package that published figures
come from (rouge-score, of Google Research), so text in other letters has no words. Left out: stemming, several
references, and ROUGE-L of summaries by sentences.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True)
class Rouge:
    """All between 0 and 1; 0 where either text has no words."""

    precision: float
    recall: float
    f1: float


def rouge_l(reference: str, answer: str) -> Rouge:
    """How an answer compares with the reference.

    >>> rouge_l("the quick brown fox", "The quick fox, jumps")
    Rouge(precision=0.75, recall=0.75, f1=0.75)
    """
    wanted, found = (_WORD.findall(text.lower()) for text in (reference, answer))
    common = longest_common_subsequence(wanted, found)
    if not common:
        return Rouge(0.0, 0.0, 0.0)
    precision, recall = common / len(found), common / len(wanted)
    return Rouge(precision, recall, 2 * precision * recall / (precision + recall))


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Its length, by dynamic programming over the prefixes of both, of which one row is kept.

    >>> longest_common_subsequence("abcbdab", "bdcaba")
    4
    """
    lengths = [0] * (len(second) + 1)  # of the prefixes of `second` against what was read of `first`
    for word in first:
        diagonal = 0
        for place, other in enumerate(second, start=1):
            above = lengths[place]
            lengths[place] = diagonal + 1 if word == other else max(above, lengths[place - 1])
            diagonal = above
    return lengths[-1]
