"""What a judge is asked: two answers to compare, or one to rate. A judge's verdict is one of a few given texts.

The words follow Zheng et al. 2023, arXiv:2306.05685, appendix A, shortened for small models: what is asked, the answers
between marks, and that only the verdict is wanted. `criterion` says what better means; a principle of a constitution
stands there as well.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vesalius.data.preference import Messages

CRITERION = "Prefer the answer that is correct, follows the request and is clear. Length alone is no merit."


@dataclass(frozen=True, kw_only=True)
class JudgePrompt:
    """One way to ask. `user` has places {criterion}, {question} and those of the answers; `verdicts` are all that may
    be answered, in the order of what they mean: of a comparison the first answer and the second, of a rating the marks
    from worst to best.
    """

    name: str
    system: str
    user: str
    verdicts: tuple[str, ...]
    criterion: str = CRITERION

    def messages(self, prompt: Messages, **answers: str) -> Messages:
        """The messages that ask for a verdict."""
        asked = self.user.format(criterion=self.criterion, question=transcript(prompt), **answers)
        return [{"role": "system", "content": self.system}, {"role": "user", "content": asked}]

    @property
    def provenance(self) -> dict[str, Any]:
        """All of it, to stand beside what was judged."""
        return asdict(self) | {"verdicts": list(self.verdicts)}


PAIRWISE = JudgePrompt(
    name="pairwise",
    system="You are a fair judge of answers. You reply with one letter: A or B.",
    user=(
        "{criterion}\n\n[Question]\n{question}\n\n[Answer A]\n{first}\n[End of answer A]\n\n"
        "[Answer B]\n{second}\n[End of answer B]\n\nWhich answer is better, A or B?"
    ),
    verdicts=("A", "B"),
)

POINTWISE = JudgePrompt(
    name="pointwise",
    system="You are a fair judge of answers. You reply with one number from 1 (useless) to 5 (perfect).",
    user=(
        "{criterion}\n\n[Question]\n{question}\n\n[Answer]\n{answer}\n[End of answer]\n\n"
        "How good is the answer, from 1 to 5?"
    ),
    verdicts=("1", "2", "3", "4", "5"),
)


def transcript(messages: Sequence[dict[str, str]]) -> str:
    """What was said, as text: a single question alone, a dialogue with who speaks.

    >>> transcript([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}])
    'User: Hi\\n\\nAssistant: Yes?'
    """
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in messages)
