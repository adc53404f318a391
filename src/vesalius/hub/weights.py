"""Weights in safetensors files: mapped into memory and checked against the model before one of them is used.

A float32 file is not copied: the model's parameters are pages of the file, read when they are first touched and
private to this process (writing to one leaves the file as it is). Other dtypes are converted once. Pickled
checkpoints are refused: opening one runs code.
Left out: writing shards; whatever reads shards reads one file of any size.
"""

import errno
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vesalius.compress.offload import Offloading
from vesalius.core.errors import UserError
from vesalius.hub.blank import blank_model
from vesalius.hub.by_layer import by_layer, part_of
from vesalius.hub.pages import MappedPages
from vesalius.models.config import ModelConfig
from vesalius.models.counts import count_parameters
from vesalius.models.transformer import Transformer
from vesalius.models.weight_map import WeightMap

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
HEAD = "lm_head.weight"

SAME_NAMES = WeightMap()

PICKLES = (".bin", ".pt", ".pth", ".ckpt")


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


def write_weights(path: Path, model: Transformer, names: WeightMap) -> None:
    """The model's parameters under their published names; a tied head is stored once, as the embedding."""
    ours = model.state_dict()
    if model.config.tie_word_embeddings:
        del ours[HEAD]
    write_tensors(path, ours, model.config, names)


def write_tensors(path: Path, ours: Mapping[str, Tensor], config: ModelConfig, names: WeightMap) -> None:
    """Tensors of our names under their published ones; one that no rule names keeps its own."""
    weights = {name: tensor.contiguous() for name, tensor in names.to_published(ours, config).items()}
    try:
        save_file(weights, path, metadata={"format": "pt"})
    except SafetensorError as error:  # tells only in words what the operating system answered
        full = next((code for code in (errno.ENOSPC, errno.EDQUOT) if f"os error {code}" in str(error)), None)
        if full is None:
            raise
        raise OSError(full, str(error)) from error


def check_size(config: ModelConfig, weights: dict[str, Tensor], where: str) -> None:
    """UserError where the files hold far fewer numbers than the config implies, before anything of its size is made.

    A byte may hold two numbers (MXFP4); a quarter is far enough from every honest file.
    """
    implied, held = count_parameters(config).total, sum(tensor.numel() for tensor in weights.values())
    if config.num_hidden_layers > len(weights) or implied > 4 * held:
        raise UserError(
            f"{where} holds {held} numbers in {len(weights)} tensors, but its config.json implies {implied} in "
            f"{config.num_hidden_layers} layers: the two do not belong together"
        )


def build_model(
    config: ModelConfig,
    stored: Mapping[str, Tensor],
    dtype: torch.dtype,
    where: str,
    *,
    names: WeightMap = SAME_NAMES,
    weight_bytes: int | None = None,
) -> Transformer:
    """The model with these weights, which are called as `names` says, in evaluation mode. UserError where a tensor is
    missing, unknown or misshaped.

    weight_bytes: memory for them; layers that do not fit stay pages of the file, or become pages of a file of their own
    where the model computes in another dtype. Errors as of compress/offload.
    """
    model, pages = blank_model(config), MappedPages()
    expected = by_layer({name: tensor.shape for name, tensor in model.state_dict().items()}, config.num_hidden_layers)
    if config.tie_word_embeddings:
        del expected[0][HEAD]
    rest, *sizes = [sum(map(math.prod, shapes.values())) * dtype.itemsize for shapes in expected]
    offloading = Offloading(weight_bytes, rest, sizes, lies_in_file=pages.hold)
    exact = {name: buffer.dtype for name, buffer in model.named_buffers()}  # a router's correction bias stays float32
    for number, group in enumerate(by_layer(stored, config.num_hidden_layers), start=-1):
        shapes, (prefix, module) = expected[number + 1], part_of(model, number)
        ours = names.to_ours(group, config, [number] if number >= 0 else [])
        _check(shapes, ours, config, names, where)
        loaded = {name.removeprefix(prefix): ours[name].to(exact.get(name, dtype)) for name in shapes}
        module.load_state_dict(loaded, strict=False, assign=True)
        del loaded, ours  # lest a layer be there twice
        if number >= 0:
            offloading.take(number, module)
        for tensor in group.values():
            pages.drop(tensor)
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    offloading.finish(model)
    return model


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # the file object is no dict
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}): it is cut off or damaged, fetch it again") from error


def _read_shards(directory: Path) -> dict[str, Tensor]:
    names: dict[str, str] = _read_index(directory / INDEX)
    weights: dict[str, Tensor] = {}
    present = {path.name for path in directory.iterdir()}
    for shard in sorted(set(names.values())):
        if Path(shard).name != shard:
            raise UserError(
                f"{directory / INDEX} names the shard {shard!r:.80}, expected a plain file name: "
                "do not trust this checkpoint"
            )
        if shard not in present:
            raise UserError(f"{directory} lacks {shard!r:.80}, which its index names: the download is incomplete")
        weights |= _read_file(directory / shard)
    if lost := sorted(names.keys() - weights.keys()):
        raise UserError(
            f"{directory}: no shard holds {lost[0]!r}, which the index promises: the shards are of another version"
        )
    return weights


def _read_index(path: Path) -> dict[str, str]:
    try:
        names: Any = json.loads(path.read_text("utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is not an index of shards ({error!r}): fetch it again") from error
    if not isinstance(names, dict) or not all(isinstance(shard, str) for shard in names.values()):
        raise UserError(f"{path}: weight_map must map tensor names to file names: fetch it again")
    return names


def _check(
    expected: Mapping[str, torch.Size], ours: Mapping[str, Tensor], config: ModelConfig, names: WeightMap, where: str
) -> None:
    """UserError that names the first tensors that are missing, unknown or misshaped; missing ones as `names` does."""
    if missing := [names.published_name(name, config) for name in expected if name not in ours]:
        raise UserError(
            f"{where} lacks {_first(missing)}, which its config.json implies: the two do not belong together"
        )
    optional = {HEAD} if config.tie_word_embeddings else set()
    if unknown := sorted(ours.keys() - expected.keys() - optional):
        raise UserError(
            f"{where} has {_first(unknown)}, for which its config.json has no place: the two do not belong together"
        )
    for name, shape in expected.items():
        if ours[name].shape != shape:
            raise UserError(f"{where}: {name} is {tuple(ours[name].shape)}, expected {tuple(shape)} by its config.json")
        if not ours[name].is_floating_point():
            kind = str(ours[name].dtype).removeprefix("torch.")
            raise UserError(f"{where}: {name} is {kind}, expected floating-point weights: fetch the unquantised model")


def _first(names: list[str]) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(repr(name)[1:-1][:120] for name in names[:3])  # a name from a file may hold anything
    return shown + (f" and {len(names) - 3} more tensors" if len(names) > 3 else "")
