"""The settings that a model's makers recommend, as generation_config.json publishes them, and ours in its words.

Only what shapes the answers is taken: end tokens belong to the tokenizer, lengths to whoever asks. `do_sample: false`,
which is also what a file without it means, is temperature 0 here. Left out: transformers' own defaults (top_k 50) for
settings that a file doesn't have.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from vesalius.core.errors import UserError
from vesalius.hub.aliases import alias_of
from vesalius.hub.directory import GENERATION
from vesalius.infer.params import SamplingOptions, SamplingParams

ADJUSTING = ("repetition_penalty", "no_repeat_ngram_size")
DRAWING = ("temperature", "top_k", "top_p", "min_p", "typical_p")
OFF = {"top_k": (0, -1), "no_repeat_ngram_size": (0,)}
"""What stands for None in a published file."""


def read_recommended(model: Path) -> SamplingOptions:
    """The settings that are published with a model in a directory, or that stand with the alias that a file is of; none
    where there is neither.

    UserError where the file is damaged or a setting is out of its range.
    """
    if alias := alias_of(model):
        return recommended_options(alias.recommended)
    file = model / GENERATION
    if not file.is_file():
        return SamplingOptions()
    try:
        published = json.loads(file.read_text("utf-8"))
        if not isinstance(published, dict):
            raise UserError(f"expected an object, got {type(published).__name__}")
        return recommended_options(published)
    except ValueError as error:  # no JSON, or a UserError
        raise UserError(f"{file}: {error}: correct it, or delete it to go without recommended settings") from error


def recommended_options(published: Mapping[str, Any]) -> SamplingOptions:
    """The settings in the content of a generation_config.json. UserError where one of them is out of its range.

    >>> recommended_options({"do_sample": True, "temperature": 0.6, "top_k": 0, "eos_token_id": 2})
    {'temperature': 0.6}
    """
    drawn = bool(published.get("do_sample"))
    found = {
        name: published[name]
        for name in (*ADJUSTING, *(DRAWING if drawn else ()))
        if published.get(name) is not None and published[name] not in OFF.get(name, ())
    }
    options = cast(SamplingOptions, ({"temperature": 1.0} if drawn else {}) | found)
    SamplingParams.of(**options)
    return options


def published_options(options: SamplingOptions) -> dict[str, Any]:
    """The same settings as generation_config.json has them; what it doesn't know is left out.

    >>> published_options({"temperature": 0.6, "max_tokens": 64})
    {'do_sample': True, 'temperature': 0.6}
    """
    drawn = options.get("temperature", 0) > 0
    known = {name: value for name, value in options.items() if name in (*ADJUSTING, *(DRAWING if drawn else ()))}
    return ({"do_sample": True} if drawn else {}) | {name: value for name, value in known.items() if value is not None}
