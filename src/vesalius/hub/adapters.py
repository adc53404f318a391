"""Adapters in directories of their own, in PEFT's format: adapter_config.json and adapter_model.safetensors.

PEFT opens what is written here, and what PEFT writes opens here, with the same logits. The directory names its base
model, so it opens by itself. It may also be the base's own directory, for adapters that cannot be merged.
Left out: optimizer states, several adapters in one directory, and pickled adapters.
"""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vesalius.adapt.switch import adapter_names, holders
from vesalius.core.errors import UserError, nearest
from vesalius.core.files import atomic_path, write_json
from vesalius.hub.adapter_reading import EMBEDDINGS, READERS, UNKNOWN_HERE, Layers
from vesalius.hub.adapter_writing import WRITERS
from vesalius.hub.json_object import read_object
from vesalius.models.transformer import Transformer

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
PREFIX = "base_model.model."
"""Before the name of every layer."""

PARTS = (
    "lora_A.weight",
    "lora_B.weight",
    "lora_magnitude_vector",
    "ia3_l",
    "down.weight",
    "down.bias",
    "up.weight",
    "up.bias",
)
"""What a layer's tensors may be called."""


def save_adapter(
    directory: Path | str, model: Transformer, name: str | None = None, *, base: str | Path | None = None
) -> None:
    """Writes an adapter's directory or nothing; what stood there before is replaced. `base` is what its base opens by.

    `name` may be left out where there is one. UserError where there is none of it.
    """
    with atomic_path(directory) as scratch:
        scratch.mkdir()
        write_adapter(scratch, model, name, base=base)


def write_adapter(
    directory: Path, model: Transformer, name: str | None = None, *, base: str | Path | None = None
) -> None:
    """Writes the files of an adapter into a directory that is there. UserError as in `save_adapter`."""
    parts = _parts(model, name)
    kind = type(next(iter(parts.values())))
    settings, tensors = WRITERS[kind](model, parts)
    common = {"base_model_name_or_path": None if base is None else str(base), "task_type": "CAUSAL_LM"}
    write_json(directory / CONFIG, {**settings, **common, "inference_mode": True})
    named = {key if key == EMBEDDINGS else PREFIX + key: tensor for key, tensor in tensors.items()}
    stored = {key: tensor.detach().cpu().contiguous() for key, tensor in named.items()}
    save_file(stored, directory / WEIGHTS, metadata={"format": "pt"})


def load_adapter(model: Transformer, directory: Path | str, name: str = "default") -> None:
    """Puts the adapter of a directory around the model, in place, and takes it into use alone.

    UserError that says what is wrong with it, and where it belongs to another model; the model is untouched then.
    """
    directory = Path(directory)
    settings = read_settings(directory)
    kind = str(settings.get("peft_type"))
    if kind not in READERS:
        raise UserError(f"{directory} is an adapter of kind {kind!r}, {nearest(kind, READERS)}")
    if unknown := next((key for key in UNKNOWN_HERE if settings.get(key)), None):
        raise UserError(f"{directory} has {unknown} set, which is not supported: make the adapter without it")
    if settings.get("bias", "none") != "none":
        raise UserError(
            f"{directory} has trained biases (bias = {settings['bias']!r}): only bias = 'none' is supported"
        )
    tensors = _read_tensors(directory)
    try:
        layers = _layers(tensors)
        READERS[kind](model, name, settings, layers)
    except UserError as error:
        raise UserError(f"{directory}: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{directory / CONFIG} is not what PEFT writes ({error!r}): fetch it again") from error


def is_adapter(directory: Path) -> bool:
    """Whether the directory holds an adapter."""
    return (directory / CONFIG).is_file()


def base_of(directory: Path) -> str:
    """What the base of the adapter in a directory opens by. UserError where it names none."""
    base = read_settings(directory).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise UserError(
            f"{directory} is an adapter that does not name its base model: open the base, and give it as the adapter"
        )
    return base


def read_settings(directory: Path) -> dict[str, Any]:
    """adapter_config.json. UserError where there is none, or it is damaged."""
    if not (directory / CONFIG).is_file():
        raise UserError(f"{directory} has no {CONFIG}: expected the directory of an adapter")
    return read_object(directory / CONFIG)


def _read_tensors(directory: Path) -> dict[str, Tensor]:
    path = directory / WEIGHTS
    if not path.is_file() and (directory / PICKLE).is_file():
        raise UserError(f"{directory / PICKLE} is a pickle, which can run any code when it is opened: take {WEIGHTS}")
    if not path.is_file():
        raise UserError(f"{directory} has no {WEIGHTS}: the download or the save is incomplete")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # the file object is no dict
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}): it is cut off or damaged, fetch it again") from error


def _layers(tensors: dict[str, Tensor]) -> Layers:
    """By layer and part. UserError for a tensor that is no part of an adapter."""
    layers: Layers = {}
    for key, tensor in tensors.items():
        key = key.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")  # as early versions of PEFT wrote it
        part = next((part for part in PARTS if key.endswith(f".{part}")), key if key == EMBEDDINGS else None)
        if part is None:
            raise UserError(f"it holds {key!r:.120}, which is no part of an adapter that can be opened here")
        layers.setdefault(key.removesuffix(part).removesuffix(".").removeprefix(PREFIX), {})[part] = tensor
    return layers


def _parts(model: Transformer, name: str | None) -> dict[str, nn.Module]:
    """The parts of the adapter by the layers that they are around."""
    known = adapter_names(model)
    if name is None and len(known) == 1:
        name = known[0]
    if name not in known:
        asked = "the model has several adapters" if name is None else f"the model has no adapter {name!r}"
        raise UserError(f"{asked}: give one of {', '.join(known) or 'none'}")
    return {path: holder.adapters[name] for path, holder in holders(model).items() if name in holder.adapters}
