"""Tiny models of every architecture, with weights that nothing hides: no norm is 1, no bias is 0."""

from pathlib import Path

import torch
from gguf_configs import config_named

from vesalius.models.transformer import Transformer
from vesalius.tokenizers.bpe import BPE, SPECIAL_TOKENS
from vesalius.tokenizers.tokenizer import Tokenizer

BYTES = {bytes([byte]): byte + len(SPECIAL_TOKENS) for byte in range(256)}
TOKENIZER = Tokenizer.from_bpe(
    BPE(BYTES | {b"ab": 259}, [(b"a", b"b")], {text: number for number, text in enumerate(SPECIAL_TOKENS)})
)
TOKENS = torch.tensor([[5, 17, 99, 200, 3, 4, 150, 259, 42, 77, 8, 9, 201, 33, 120, 64, 7, 250, 11, 12] * 2])  # (1, 40)


def model_named(name: str, **changes: object) -> Transformer:
    """The model with the config of this name."""
    model = Transformer(config_named(name, initializer_range=0.15, **changes), seed=1).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def logits(model: Transformer) -> torch.Tensor:
    """(40, V) of TOKENS."""
    with torch.no_grad():
        return model(TOKENS)[0]


def file_name(name: str) -> str:
    """llama.cpp takes a model for a Phi-3 by its name, and then wants the tokens of one."""
    return name.replace("phi3", "phi-three").replace(", ", "-").replace(" ", "") + ".gguf"


def real_file() -> Path | None:
    """The file of the alias smollm2-135m-instruct, where it has been pulled."""
    from vesalius.hub.aliases import SMOLLM2
    from vesalius.hub.pull import alias_path, is_here

    return alias_path(SMOLLM2) if is_here(SMOLLM2) else None
