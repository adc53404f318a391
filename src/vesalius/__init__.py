"""Vesalius builds, trains, aligns, compresses, serves and dissects language models on one spine.

Names load when they are first used: importing torch takes seconds, and `import vesalius` must not (DESIGN, "Floors").
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vesalius.infer.language_model import LanguageModel

__version__ = "0.1.0"

_LAZY = {
    "Transformer": "vesalius.models.transformer",
    "ModelConfig": "vesalius.models.config",
    "Tokenizer": "vesalius.tokenizers.tokenizer",
    "LanguageModel": "vesalius.infer.language_model",
    "fit": "vesalius.train.loop",
}
__all__ = [*_LAZY, "load"]


def load(path: str, *, adapter: str | None = None, **options: Any) -> "LanguageModel":
    """Opens a model and its tokenizer: an alias, a hub id, a .gguf file, a Hugging Face or a run directory, or the
    directory of an adapter.

    `adapter` is the directory of one to put around the model, in PEFT's format, or a run that made one. `options` are
    those of `EngineOptions`, such as speculation="ngram". UserError that says what is wrong, VesaliusError where it
    cannot be fetched.
    """
    chosen = importlib.import_module("vesalius.infer.options").EngineOptions(**options)
    return importlib.import_module("vesalius.infer.language_model").LanguageModel.load(path, chosen, adapter=adapter)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'vesalius' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
