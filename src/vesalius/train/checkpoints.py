"""Keeps a run's newest checkpoints, puts the run back from them, and serves the guard's way back.

One is written at the start of a stage, so that there is always a way back, then after every `every` seconds (a clock
bounds what a kill costs, whatever the length of a step), and at the end. Weights that are not finite are never saved,
and frozen ones never at all: they are those that the run starts from, and a few of their numbers are compared.
"""

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vesalius.core.errors import UserError
from vesalius.core.files import remove_scratch
from vesalius.train.checkpoint_files import (
    DamagedCheckpointError,
    checkpoint_path,
    frozen_digest,
    learned,
    list_checkpoints,
    load_tensors,
    read_state,
    write_checkpoint,
)
from vesalius.train.training import Callback, Training


class Checkpoints(Callback):
    """Checkpoints of one stage in `directory`.

    identity  what must be the same for a checkpoint to fit, such as the model's config and the tokenizer's fingerprint
    recipe    the resolved recipe as text, kept for whoever finds the checkpoint alone
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        keep: int = 2,
        every: float = 60.0,
        identity: Mapping[str, Any] | None = None,
        recipe: str = "",
    ) -> None:
        self.directory, self.keep, self.every = Path(directory), keep, every
        self.identity: dict[str, Any] = json.loads(json.dumps(dict(identity or {})))  # as it comes back from a file
        self.recipe = recipe
        self.saved_step: int | None = None
        self._frozen: str | None = None
        self.saved_at = time.monotonic()

    def on_restore(self, run: Training) -> None:
        """Goes on from the newest checkpoint that is whole. UserError where it is of another model or optimizer."""
        self.directory.mkdir(parents=True, exist_ok=True)
        remove_scratch(self.directory)
        whole, damaged = _newest_whole(self.directory)
        if whole is not None:
            self._check_fits(*whole, run)
            load_tensors(*whole, run.model, run.optimizer)
            run.load_state_dict(whole[1]["run"])
            self.saved_step = run.step
        for error in damaged:
            run.emit_guard("warning", f"{error}; the run goes on from step {run.step}", step=run.step)

    def on_start(self, run: Training) -> None:
        if self.saved_step is None:
            self.save(run)

    def on_step_end(self, run: Training) -> None:
        if time.monotonic() - self.saved_at >= self.every:
            self.save(run)

    def on_stop(self, run: Training) -> None:
        if run.stopped and self.saved_step != run.step:
            self.save(run)

    def on_rollback(self, run: Training) -> bool:
        """Puts back weights and optimizer only. Each time in a row that the guard asks, one checkpoint further back."""
        paths = list_checkpoints(self.directory)
        for path in [*paths[run.guard.rollbacks - 1 :], *paths[-1:]]:
            try:
                load_tensors(path, read_state(path), run.model, run.optimizer)
            except DamagedCheckpointError as error:
                run.emit_guard("warning", str(error))
                continue
            return True
        return False

    def save(self, run: Training) -> None:
        """Writes a checkpoint of this moment and keeps the newest `keep`. VesaliusError where the disk is full."""
        self.saved_at = time.monotonic()
        if not all(torch.isfinite(tensor).all() for tensor in learned(run.model).values()):
            run.emit_guard("warning", "the weights are not finite, so this moment is not saved")
            return
        state = {"identity": self._identity(run), "recipe": self.recipe, "run": run.state_dict()}
        write_checkpoint(checkpoint_path(self.directory, run.step), run.model, run.optimizer, state)
        self.saved_step = run.step
        for old in list_checkpoints(self.directory)[self.keep :]:
            shutil.rmtree(old)

    def _identity(self, run: Training) -> dict[str, Any]:
        if self._frozen is None:
            self._frozen = frozen_digest(run.model)
        shapes = {name: list(tensor.shape) for name, tensor in learned(run.model).items()}
        frozen = {"the frozen weights' digest": self._frozen} if self._frozen else {}
        return {**_flat(self.identity), "optimizer": type(run.optimizer).__name__, **frozen, **shapes}

    def _check_fits(self, path: Path, state: dict[str, Any], run: Training) -> None:
        if difference := _first_difference(state["identity"], self._identity(run)):
            raise UserError(
                f"{path} is of another model or run: {difference}; "
                "take the recipe that it was made with, or choose another --out"
            )


def _newest_whole(directory: Path) -> tuple[tuple[Path, dict[str, Any]] | None, list[DamagedCheckpointError]]:
    """The newest checkpoint that can be read, with its state, and what was wrong with newer ones."""
    damaged: list[DamagedCheckpointError] = []
    for path in list_checkpoints(directory):
        try:
            return (path, read_state(path)), damaged
        except DamagedCheckpointError as error:
            damaged.append(error)
    return None, damaged


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _first_difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The first name at which two mappings differ, in words; "" where they don't.

    >>> _first_difference({"hidden_size": 256}, {"hidden_size": 384})
    'hidden_size is 256 in the checkpoint and 384 here'
    """
    for name in [*there, *(name for name in here if name not in there)]:
        theirs, ours = there.get(name, "absent"), here.get(name, "absent")
        if theirs != ours:
            return f"{name} is {theirs} in the checkpoint and {ours} here"
    return ""
