"""One checkpoint on the disk: a directory that is whole or absent, and never a pickle.

    model.safetensors      weights, under the names of the model's state_dict
    optimizer.safetensors  the optimizer's tensors, "<parameter's number>.<name>"
    state.json             everything else, and the digests of both files

The directory is written beside and renamed (core.files), so a kill leaves the one before. What a disk does to it later
is found by the digests.
"""

import errno
import hashlib
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from vesalius.core.errors import VesaliusError
from vesalius.core.files import atomic_path

TENSOR_FILES = ("model.safetensors", "optimizer.safetensors")


class DamagedCheckpointError(VesaliusError):
    """A checkpoint that cannot be read back as it was written."""


def checkpoint_path(directory: Path, step: int) -> Path:
    """Where the checkpoint of a step stands; names sort as steps do."""
    return directory / f"step-{step:08d}"


def list_checkpoints(directory: Path) -> list[Path]:
    """All checkpoints, newest first."""
    return sorted(directory.glob("step-*"), reverse=True)


def write_checkpoint(path: Path, model: nn.Module, optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Writes all of it or nothing. VesaliusError where the disk is full; checkpoints from before are not touched."""
    packed = optimizer.state_dict()
    tensors = {
        f"{number}.{name}": value for number, values in packed["state"].items() for name, value in values.items()
    }
    with atomic_path(path) as scratch:
        scratch.mkdir()
        try:
            save_model(model, str(scratch / "model.safetensors"))
            save_file(
                {name: tensor.contiguous() for name, tensor in tensors.items()}, scratch / "optimizer.safetensors"
            )
        except SafetensorError as error:
            raise _as_os_error(error, path) from error
        state = state | {"param_groups": packed["param_groups"], "digests": _digests(scratch)}
        (scratch / "state.json").write_text(json.dumps(state), encoding="utf-8")


def read_state(path: Path) -> dict[str, Any]:
    """The state of a checkpoint whose files are all as they were written, else DamagedCheckpointError."""
    try:
        state = json.loads((path / "state.json").read_text("utf-8"))
        written, found = state["digests"], _digests(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpointError(f"{path} cannot be read ({error})") from error
    if written != found:
        raise DamagedCheckpointError(f"the tensors in {path} are not what was written")
    return state


def load_tensors(path: Path, state: dict[str, Any], model: nn.Module, optimizer: Optimizer) -> None:
    """Puts weights and optimizer state of a checkpoint, whose `read_state` is `state`, into place."""
    load_model(model, path / "model.safetensors")
    values: dict[int, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in load_file(path / "optimizer.safetensors").items():
        number, name = key.split(".", 1)
        values[int(number)][name] = tensor
    optimizer.load_state_dict({"state": dict(values), "param_groups": state["param_groups"]})


def _digests(folder: Path) -> dict[str, str]:
    digests = {}
    for name in TENSOR_FILES:
        with (folder / name).open("rb") as file:
            digests[name] = hashlib.file_digest(file, "blake2b").hexdigest()
    return digests


def _as_os_error(error: SafetensorError, path: Path) -> OSError | SafetensorError:
    """safetensors wraps what the operating system said into text."""
    for number in (errno.ENOSPC, errno.EDQUOT):
        if f"os error {number}" in str(error):
            return OSError(number, str(error), str(path))
    return error
