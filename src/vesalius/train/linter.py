"""What is wrong with a batch before anything was computed from it."""

from collections.abc import Sequence

import torch

from vesalius.core.errors import UserError
from vesalius.data.batch import Batch
from vesalius.train.training import Callback, Training, TrainingBatch

EMPTY_IN_A_ROW = 100
"""So many batches without a target, and the source will not get better."""


class BatchLinter:
    """Refuses batches that have no target: their mean loss is 0 / 0."""

    def __init__(self) -> None:
        self.empty_in_a_row = 0

    def refuses(self, run: Training, batch: TrainingBatch) -> bool:
        """Whether to leave the batch out, which is told. UserError for a run's first batch and for endless ones."""
        if batch.weight:
            self.empty_in_a_row = 0
            return False
        self.empty_in_a_row += 1
        if run.step == 0 or self.empty_in_a_row == EMPTY_IN_A_ROW:
            raise UserError(
                f"the batch {batch.source} has no target to learn from: the assistant's words may lie beyond the "
                "context, so make train.context longer or the conversations shorter"
            )
        run.emit_guard("skip", "the batch has no target", batch=batch.source)
        return True


class EndOfTurnLinter(Callback):
    """Warns once where none of the first batches has an end token as a target: such a model never learns to stop."""

    def __init__(self, eos_ids: Sequence[int], batches: int = 20) -> None:
        self.eos_ids, self.left = torch.tensor(list(eos_ids)), batches

    def on_batch(self, run: Training, batch: TrainingBatch) -> None:
        if not self.left or not isinstance(batch, Batch):
            return
        self.left -= 1
        if torch.isin(batch.targets, self.eos_ids).any():
            self.left = 0
        elif not self.left:
            ids = ", ".join(str(i) for i in self.eos_ids.tolist())
            run.emit_guard(
                "warning",
                f"no end token (ids {ids}) is a target in the first batches, so the model will not learn to stop: "
                "the chat template must have the assistant's end-of-turn token inside its generation part",
                batch=batch.source,
            )
