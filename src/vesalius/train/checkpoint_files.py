"""One checkpoint on the disk: a directory that is whole or absent, and never a pickle.

    model.safetensors      what trains, and the buffers, under their names in the model
    optimizer.safetensors  the optimizer's tensors, "<parameter's number>.<name>"
    state.json             everything else, and the digests of both files

What is frozen is not in it: a run starts from the same model again. The directory is written beside and renamed
(core.files), so a kill leaves the one before. What a disk does to it later is found by the digests.
"""

import errno
import hashlib
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from vesalius.core.errors import VesaliusError
from vesalius.core.files import atomic_path

WEIGHTS = "model.safetensors"
TENSOR_FILES = (WEIGHTS, "optimizer.safetensors")

DIGESTED = 1024
"""Numbers of each frozen parameter that tell one base from another."""


class DamagedCheckpointError(VesaliusError):
    """A checkpoint that cannot be read back as it was written."""


def learned(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that train, one that several modules share once, and the buffers that a state_dict holds."""
    trained = {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}
    return trained | {
        f"{path}.{name}" if path else name: buffer
        for path, module in model.named_modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name not in module._non_persistent_buffers_set
    }


def frozen_digest(model: nn.Module) -> str:
    """Of the parameters that do not train, by one number in so many of each; "" where there are none."""
    digest = hashlib.blake2b(digest_size=8)
    frozen = [(name, p.detach()) for name, p in model.named_parameters() if not p.requires_grad]
    for name, parameter in frozen:
        flat = parameter.flatten()
        some = flat[:: max(1, len(flat) // DIGESTED)].float().cpu()
        digest.update(name.encode() + some.numpy().tobytes())
    return digest.hexdigest() if frozen else ""


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
            save_file({name: tensor.contiguous() for name, tensor in learned(model).items()}, scratch / WEIGHTS)
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


@torch.no_grad()
def load_tensors(path: Path, state: dict[str, Any], model: nn.Module, optimizer: Optimizer) -> None:
    """Puts weights and optimizer state of a checkpoint, whose `read_state` is `state`, into place."""
    there, stored = learned(model), load_file(path / WEIGHTS)
    for name, tensor in there.items():
        tensor.copy_(stored[name])
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
