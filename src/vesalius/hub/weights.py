"""Weights in safetensors files: mapped into memory and checked against the model before one of them is used.

A float32 file is not copied: the model's parameters are pages of the file, read when they are first touched and
private to this process (writing to one leaves the file as it is). Other dtypes are converted once. Pickled
checkpoints are refused: opening one runs code.
Left out: writing shards; whatever reads shards reads one file of any size.
"""

import errno
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vesalius.core.errors import UserError
from vesalius.kernels.rope import frequencies
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
HEAD = "lm_head.weight"

PICKLES = (".bin", ".pt", ".pth", ".ckpt")

STALE_BUFFERS = ("rotary_emb.inv_freq",)
"""Endings of tensors that old checkpoints carry though they follow from the config."""


def read_weights(directory: Path) -> dict[str, Tensor]:
    """Name -> memory-mapped tensor, from one file or from shards. UserError where there is nothing to read."""
    if (directory / WEIGHTS).exists():
        return _read_file(directory / WEIGHTS)
    if (directory / INDEX).exists():
        return _read_shards(directory)
    for path in sorted(directory.iterdir()):
        if path.suffix in PICKLES:
            raise UserError(
                f"{path} is a pickle, which can run any code when it is opened; convert it where you trust it: "
                f'python -c "from transformers import AutoModelForCausalLM as M; '
                f"M.from_pretrained('{directory}').save_pretrained('NEW')\""
            )
    raise UserError(f"{directory} has no {WEIGHTS} and no {INDEX}: the download or the save is incomplete")


def write_weights(path: Path, model: Transformer) -> None:
    """The model's parameters under their Hugging Face names; a tied head is stored once, as the embedding."""
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del weights[HEAD]
    try:
        save_file(weights, path, metadata={"format": "pt"})
    except SafetensorError as error:  # tells only in words what the operating system answered
        full = next((code for code in (errno.ENOSPC, errno.EDQUOT) if f"os error {code}" in str(error)), None)
        if full is None:
            raise
        raise OSError(full, str(error)) from error


def build_model(config: ModelConfig, weights: dict[str, Tensor], dtype: torch.dtype, where: str) -> Transformer:
    """The model with these weights, in evaluation mode. UserError where a tensor is missing, unknown or misshaped."""
    with torch.device("meta"):  # no memory and no random numbers for weights that are replaced at once
        model = Transformer(config)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    tied = config.tie_word_embeddings
    if tied:
        del expected[HEAD]
    _check(expected, weights, {HEAD} if tied else set(), where)
    model.load_state_dict({name: weights[name].to(dtype) for name in expected}, strict=not tied, assign=True)
    if tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    model.model.inverse_frequencies = frequencies(config.head_dim, config.rope_theta)  # the one buffer, never in a file
    return model.eval()


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # the file object is no dict
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}): it is cut off or damaged, fetch it again") from error


def _read_shards(directory: Path) -> dict[str, Tensor]:
    names: dict[str, str] = _read_index(directory / INDEX)
    weights: dict[str, Tensor] = {}
    for shard in sorted(set(names.values())):
        if Path(shard).name != shard:
            raise UserError(
                f"{directory / INDEX} names the shard {shard!r}, expected a plain file name: "
                "do not trust this checkpoint"
            )
        if not (directory / shard).exists():
            raise UserError(f"{directory} lacks {shard}, which its index names: the download is incomplete")
        weights |= _read_file(directory / shard)
    if lost := sorted(names.keys() - weights.keys()):
        raise UserError(
            f"{directory}: no shard holds {lost[0]!r}, which the index promises: the shards are of another version"
        )
    return weights


def _read_index(path: Path) -> dict[str, str]:
    try:
        names: Any = json.loads(path.read_text("utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not an index of shards ({error!r}): fetch it again") from error
    if not isinstance(names, dict) or not all(isinstance(shard, str) for shard in names.values()):
        raise UserError(f"{path}: weight_map must map tensor names to file names: fetch it again")
    return names


def _check(expected: dict[str, torch.Size], weights: dict[str, Tensor], optional: set[str], where: str) -> None:
    """UserError that names the first tensors that are missing, unknown or misshaped."""
    given = {name for name in weights if not name.endswith(STALE_BUFFERS)}
    if missing := [name for name in expected if name not in given]:
        raise UserError(
            f"{where} lacks {_first(missing)}, which its config.json implies: the two do not belong together"
        )
    if unknown := sorted(given - expected.keys() - optional):
        raise UserError(
            f"{where} has {_first(unknown)}, for which its config.json has no place: the two do not belong together"
        )
    for name, shape in expected.items():
        if weights[name].shape != shape:
            raise UserError(
                f"{where}: {name} is {tuple(weights[name].shape)}, expected {tuple(shape)} by its config.json"
            )


def _first(names: list[str]) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more tensors" if len(names) > 3 else "")
