"""Measuring and describing one model outside a run: what `vesalius eval`, `info` and `bench` show."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vesalius.core.errors import UserError, nearest
from vesalius.core.hardware import hardware_line, measure_rates, peak_bytes
from vesalius.data.documents import read_documents
from vesalius.data.shard_writing import write_held_out
from vesalius.data.shards import TokenShards
from vesalius.evals.bits_per_byte import bits_per_byte
from vesalius.evals.docstring_choice import docstring_choice
from vesalius.evals.speed import time_work
from vesalius.hub.aliases import ALIASES
from vesalius.hub.facts import ModelFacts, facts_of
from vesalius.hub.locate import is_hub_id
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
    """Config, parameters, operations and bytes of a stored model or of a preset, and how a stored one is stored.

    UserError where there is neither.
    """
    stored = None
    if name in PRESETS and not Path(name).exists():
        config = by_name(name, vocab_size=PRESET_VOCABULARY)
    else:
        stored = _facts(name)
        config = stored.config
    context = min(config.max_position_embeddings, 1024)
    parameters = asdict(count_parameters(config))
    facts = {
        "model": name,
        "config": config.to_dict(),
        "parameters": {**parameters, "total": count_parameters(config).total},
        "flops_per_token": {**asdict(count_flops(config, context)), "total": count_flops(config, context).total},
        "context": context,
        "bytes": asdict(count_bytes(config, batch_rows=8, context=context)),
    }
    return facts if stored is None else facts | {"stored": _plain(stored)}


def measure_speed_of(name: str, *, repeats: int = 5) -> dict[str, Any]:
    """How fast a model opens, reads and writes here, beside the machine's limits, and the memory that took.

    A model that is fetched first takes longer to open. UserError where it cannot be opened or its context is too short.
    """
    start = time.perf_counter()
    lm = LanguageModel.load(name)
    load_seconds = time.perf_counter() - start
    timings = time_work(lm.model, repeats=repeats)
    peak = peak_bytes()  # before the limits are measured, which takes memory of its own
    rates = measure_rates()
    return {
        "model": name,
        "hardware": hardware_line(),
        "load_seconds": load_seconds,
        "peak_bytes": peak,
        "limits": asdict(rates),
        "speed": [timing.beside(rates).to_dict() for timing in timings],
    }


def _facts(name: str) -> ModelFacts:
    """UserError with the nearest preset where the name means no model either."""
    hint = nearest(name, PRESETS)
    if hint.startswith("did you mean") and not Path(name).exists() and name not in ALIASES and not is_hub_id(name):
        raise UserError(f"no model or preset {name!r}: give a model, or a preset ({hint})")
    return facts_of(name)


def _plain(facts: ModelFacts) -> dict[str, Any]:
    """What JSON holds."""
    return {
        "path": str(facts.path),
        "container": facts.container,
        "architecture": facts.architecture,
        "bytes": sum(entry["bytes"] for entry in facts.formats.values()),
        "formats": facts.formats,
        "tokenizer": facts.tokenizer,
    }
