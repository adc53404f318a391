"""Measuring and describing one model outside a run: what `vesalius eval` and `vesalius info` show."""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vesalius.core.errors import UserError, nearest
from vesalius.data.documents import read_documents
from vesalius.data.shard_writing import write_held_out
from vesalius.data.shards import TokenShards
from vesalius.evals.bits_per_byte import bits_per_byte
from vesalius.evals.docstring_choice import docstring_choice
from vesalius.hub.directory import open_model
from vesalius.infer.language_model import LanguageModel
from vesalius.models.counts import count_bytes, count_flops, count_parameters
from vesalius.models.presets import PRESETS, by_name

PRESET_VOCABULARY = 4096
VALIDATION_FRACTION = 0.05


def measure(lm: LanguageModel, *, text: Sequence[str], questions: int, context: int | None = None) -> dict[str, Any]:
    """Bits per byte of all the text that `text` names, and accuracy on `questions` questions about docstrings.

    UserError where neither is asked for, or the context is longer than the model's.
    """
    limit = lm.config.max_position_embeddings
    if not text and not questions:
        raise UserError("nothing to measure: give --text FILES, or --questions N, or both")
    if context is not None and not 1 <= context <= limit:
        raise UserError(f"--context is {context}, expected 1 to {limit}, the model's own")
    results: dict[str, Any] = {}
    if text:
        with tempfile.TemporaryDirectory() as scratch:
            write_held_out(read_documents(text), lm.tokenizer, Path(scratch) / "shards", specs=text)
            shards = TokenShards(Path(scratch) / "shards", "validation", lm.tokenizer)
            results["bits_per_byte"] = bits_per_byte(lm.model, shards, context=context or min(limit, 1024))
    if questions:
        results["docstring_choice"] = docstring_choice(
            lm.model, lm.tokenizer, validation_fraction=VALIDATION_FRACTION, n=questions
        )
    return results


def describe(name: str) -> dict[str, Any]:
    """Config, parameters, operations and bytes of a saved model or of a preset. UserError where there is neither."""
    if name in PRESETS:
        config = by_name(name, vocab_size=PRESET_VOCABULARY)
    elif not Path(name).exists():
        raise UserError(f"no model or preset {name!r}: give a directory, or a preset ({nearest(name, PRESETS)})")
    else:
        config = open_model(name)[0].config
    context = min(config.max_position_embeddings, 1024)
    parameters = asdict(count_parameters(config))
    return {
        "model": name,
        "config": config.to_dict(),
        "parameters": {**parameters, "total": count_parameters(config).total},
        "flops_per_token": {**asdict(count_flops(config, context)), "total": count_flops(config, context).total},
        "context": context,
        "bytes": asdict(count_bytes(config, batch_rows=8, context=context)),
    }
