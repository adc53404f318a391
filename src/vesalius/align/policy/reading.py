"""Sampled answers as a model reads them: every prompt once, however many answers it has.

A group's answers begin with the same prompt, and with short answers it is most of what there is to read. So the answers
to one prompt stand behind a single copy of it, none seeing the others (rows/answer_rows), and what the model says at
each target goes back to the place in the batch where its answer has a row of its own. Answers that were taken out of
the loss are not read at all.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vesalius.align.policy.batch import PolicyBatch
from vesalius.align.rows.answer_rows import Item, Layout, can_share_prompts, item_length, lay_out
from vesalius.align.rows.packing import pack
from vesalius.align.rows.spans import Ids, Marks
from vesalius.data.batch import IGNORE
from vesalius.models.config import ModelConfig

ROOM = 256
"""Places in a row, at least, for a prompt and its answers: attention pays for all pairs of them, seen or not, so that
a longer row than the longest answer needs would cost more than reading the prompt again."""


@dataclass(frozen=True)
class Reading:
    """What goes through the model in a batch's place: tokens, targets and positions (R, W) as in data.Batch.

    said    (B, T) where the batch has targets
    places  (N,) of each of them, row by row, the place of its like in the flattened `targets`; None: they are the same
    """

    tokens: Tensor
    targets: Tensor
    positions: Tensor | None
    said: Tensor
    places: Tensor | None

    def back(self, values: Tensor) -> Tensor:
        """values (R, W) at the places of the batch (B, T), 0 where it has no target; differentiable."""
        if self.places is None:
            return values * self.said
        return values.new_zeros(self.said.shape).masked_scatter(self.said, values.flatten()[self.places])


def reading_of(batch: PolicyBatch, config: ModelConfig) -> Reading:
    """How a model of this kind reads the batch: as it is where no prompt comes twice, or answers cannot stand side by
    side."""
    said = batch.targets != IGNORE
    tokens, targets = (tensor.cpu().numpy() for tensor in (batch.tokens, batch.targets))
    groups = _groups(tokens, targets)
    if len(groups) in (0, len(tokens)) or not can_share_prompts(config):
        return Reading(batch.tokens, batch.targets, None, said, None)
    room = min(ROOM, config.max_position_embeddings)
    asked = [item for group in groups for item in _items(tokens, targets, group, room)]
    lengths = [item_length(len(item.prompt), [len(ids) for ids, _ in item.answers], _layout(0)) for _, item in asked]
    rows = pack(range(len(asked)), lengths, max(lengths))
    width = max(sum(lengths[number] for number in row) for row in rows)
    laid_out = lay_out([[asked[number][1] for number in row] for row in rows], _layout(width), padding=0, source="")

    owners = torch.tensor([owner for row in rows for number in row for owner in asked[number][0]])  # (A,)
    found = (laid_out.targets != IGNORE).flatten().nonzero().squeeze(1)  # (N,)
    order = owners[laid_out.answer.flatten()[found]].argsort(stable=True)
    device = batch.tokens.device
    return Reading(
        tokens=laid_out.tokens.to(device),
        targets=laid_out.targets.to(device),
        positions=laid_out.positions.to(device),
        said=said,
        places=found[order].to(device),
    )


def _layout(context: int) -> Layout:
    return Layout(rows=0, context=context, shared=True)


def _groups(tokens: Ids, targets: Ids) -> list[list[int]]:
    """The rows that have targets, those together that are the same up to where the policy speaks first."""
    found: dict[bytes, list[int]] = {}
    for row, spoken in enumerate(targets != IGNORE):
        if spoken.any():
            found.setdefault(tokens[row, : spoken.argmax() + 1].tobytes(), []).append(row)
    return list(found.values())


def _items(tokens: Ids, targets: Ids, group: Sequence[int], room: int) -> Iterator[tuple[list[int], Item]]:
    """A prompt with as many of its answers as `room` places have, one at least, and the rows of these in the batch."""
    first = int((targets[group[0]] != IGNORE).argmax())
    answers = [_answer(tokens[row, first:], targets[row, first:]) for row in group]
    lengths = [len(ids) for ids, _ in answers]
    for part in _parts(lengths, max(room - first, *lengths)):
        yield list(group[part]), Item(tokens[group[0], : first + 1], answers[part])


def _answer(tokens: Ids, targets: Ids) -> tuple[Ids, Marks]:
    """The ids of an answer and what of it the policy says, from tokens and targets that begin where it speaks first."""
    said = targets != IGNORE
    end = int(said.nonzero()[0][-1]) + 1
    return np.append(tokens[1:end], targets[end - 1]), said[:end]


def _parts(lengths: Sequence[int], room: int) -> Iterator[slice]:
    """Runs of answers that are no longer than the room, together."""
    start = used = 0
    for place, length in enumerate(lengths):
        if used and used + length > room:
            yield slice(start, place)
            start, used = place, 0
        used += length
    yield slice(start, len(lengths))
