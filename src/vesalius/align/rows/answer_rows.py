"""How prompts and answers are laid out in rows of tokens.

Two answers to one prompt may share it: the prompt is read once, and the answers stand behind it with the same
positions, neither seeing the other (kernels/attention.document_mask). The last token of the prompt predicts the first
one of each answer, so it stands before each of them:

    tokens     p0 p1 | p2 a0 a1 | p2 b0        answers a0 a1 END and b0 END to p0 p1 p2
    positions   0  1 |  2  3  4 |  2  3
    targets     -  - | a0 a1 END| b0 END

With a prompt of p tokens and answers of a and b, a pair takes p - 1 + a + b places instead of 2(p - 1) + a + b.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vesalius.align.rows.answers import AnswerBatch
from vesalius.align.rows.spans import Ids, Marks
from vesalius.data.batch import IGNORE
from vesalius.models.config import ModelConfig


def can_share_prompts(config: ModelConfig) -> bool:
    """Whether all that a token learns of others is by attention to positions, so that answers can stand side by side:
    a window and ALiBi count places in the row, and some frequencies depend on the document's length.
    """
    scaled = config.rope_scaling is not None and config.rope_scaling.kind in ("dynamic", "longrope")
    return config.position != "alibi" and not config.sliding_window and not scaled


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How answers are laid out: `rows` of `context` places, and whether answers to one prompt share it.

    An answer's last token is only a target; with `ends` it is in the row as well, for a model that is read there.
    """

    rows: int
    context: int
    shared: bool
    ends: bool = False


@dataclass(frozen=True)
class Item:
    """A prompt (P,) and the answers to it, each with the mark of what the assistant says: what stays in one row."""

    prompt: Ids
    answers: Sequence[tuple[Ids, Marks]]


def item_length(prompt: int, answers: Sequence[int], layout: Layout) -> int:
    """The places that a prompt and answers of so many tokens take in a row."""
    before = prompt if layout.ends else prompt - 1
    return before * (1 if layout.shared else len(answers)) + sum(answers)


@dataclass(frozen=True)
class _Column:
    """What one row is filled with from left to right."""

    tokens: Ids
    targets: Ids
    positions: Ids
    answer: Ids


def lay_out(rows: Sequence[Sequence[Item]], layout: Layout, *, padding: int, source: str) -> AnswerBatch:
    """Rows of items as a batch. Padding is one more document at the end of a row, without targets."""
    laid_out: list[_Column] = []
    first = 0
    for items in rows:
        laid_out.append(_lay_out_row(items, layout, first, padding))
        first += sum(len(item.answers) for item in items)

    def stacked(name: str) -> Tensor:
        return torch.from_numpy(np.stack([getattr(row, name) for row in laid_out]))

    return AnswerBatch(
        tokens=stacked("tokens"),
        targets=stacked("targets"),
        positions=stacked("positions"),
        answer=stacked("answer"),
        counts=tuple(sum(len(item.answers) for item in items) for items in rows),
        source=source,
    )


def _lay_out_row(items: Sequence[Item], layout: Layout, first: int, padding: int) -> _Column:
    row = _Column(*(np.full(layout.context, value, np.int64) for value in (padding, IGNORE, 0, 0)))
    end = 0

    def put(tokens: Ids, targets: Ids | int, position: int, number: int) -> None:
        nonlocal end
        place = slice(end, end := end + len(tokens))
        row.tokens[place], row.targets[place] = tokens, targets
        row.positions[place] = np.arange(position, position + len(tokens))
        row.answer[place] = np.where(row.targets[place] == IGNORE, 0, number)

    for item in items:
        before, last = item.prompt[:-1], item.prompt[-1:]
        for place, (ids, said) in enumerate(item.answers):
            if place == 0 or not layout.shared:
                put(before, IGNORE, 0, 0)
            put(np.concatenate((last, ids[:-1])), np.where(said, ids, IGNORE), len(before), first)
            first += 1
    put(np.full(layout.context - end, padding), IGNORE, 0, 0)
    return row
