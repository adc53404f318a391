"""The answer has the form that was asked for, whatever it says: <think>…</think><answer>…</answer>, as in DeepSeek-R1
(Guo et al. 2025, arXiv:2501.12948, section 2.2.2).

A form can be had without any answer, so it should weigh little beside the rewards that check one.
"""

import re

from vesalius.align.rewards.verdict import Verdict
from vesalius.data.task import Task

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_BETWEEN = r"((?:(?!</?think>|</?answer>).)+?)"
_FORM = re.compile(rf"\s*<think>{_BETWEEN}</think>\s*<answer>{_BETWEEN}</answer>\s*", re.DOTALL)


def format_reward(_task: Task, completion: str) -> Verdict:
    """1 where the whole text is one thought and one answer, neither of them empty, no tag in another; else 0."""
    match = _FORM.fullmatch(completion)
    filled = match is not None and all(part.strip() for part in match.groups())
    return Verdict(float(filled), "one thought, one answer" if filled else "not <think>…</think><answer>…</answer>")


def tag_reward(_task: Task, completion: str) -> Verdict:
    """A quarter for each of the four tags that stands exactly once and after those before it: a slope that leads to the
    whole form, which a small model never hits by chance."""
    places = [completion.find(tag) if completion.count(tag) == 1 else -1 for tag in TAGS]
    earned, last = [], -1
    for tag, place in zip(TAGS, places, strict=True):
        if place > last:
            earned.append(tag)
            last = place
    return Verdict(len(earned) / len(TAGS), f"tags in place: {' '.join(earned) or 'none'}")
