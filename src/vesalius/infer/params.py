"""What the caller asks of a generation: one flat set of settings, checked where it enters.

Names are OpenAI's where OpenAI has the setting, else transformers'; the same value means the same in both.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypedDict, Unpack

from vesalius.core.errors import UserError
from vesalius.infer.constraint_spec import ConstraintSpec

EarlyStopping = bool | Literal["never"]


class SamplingOptions(TypedDict, total=False):
    """The settings of `SamplingParams` as keyword arguments. `stop`, `bad_words` and `choices` may also be one text,
    any iterable of texts, or None; `json_schema` may be JSON as text."""

    max_tokens: int
    min_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    no_repeat_ngram_size: int | None
    logit_bias: Mapping[int, float] | None
    bad_words: str | Iterable[str] | None
    bad_words_ids: Iterable[Iterable[int]] | None
    stop: str | Iterable[str] | None
    seed: int | None
    top_logprobs: int
    num_beams: int
    length_penalty: float
    early_stopping: EarlyStopping
    json_schema: Mapping[str, Any] | bool | str | None
    json_object: bool
    regex: str | None
    grammar: str | None
    choices: str | Iterable[str] | None


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How one sequence is generated. UserError where a setting is out of its range.

    max_tokens            the most tokens to generate
    min_tokens            no end token before this many
    temperature           divides the logits; 0 takes the likeliest token
    top_k                 keeps the k likeliest tokens
    top_p                 keeps the fewest likeliest tokens whose probabilities add up to p
    min_p                 keeps the tokens at least min_p times as likely as the likeliest
    typical_p             keeps the tokens of the most typical surprise whose probabilities add up to p
    repetition_penalty    above 1: tokens of the prompt and the answer so far become less likely
    presence_penalty      is taken from the logit of each token that the answer has already
    frequency_penalty     is taken from it once for each time
    no_repeat_ngram_size  no sequence of so many tokens stands twice in prompt and answer
    logit_bias            token id -> what is added to its logit
    bad_words             texts that are not written: neither at once nor after a blank, as the tokenizer spells them
    bad_words_ids         the same as sequences of token ids
    stop                  texts that end the generation; they are not part of the answer
    seed                  makes the draws repeatable; None draws anew each time
    top_logprobs          how many of the likeliest tokens are told at each step
    num_beams             above 1: beam search over so many beams, which draws nothing
    length_penalty        a beam's score is its log-probability divided by its length to this power
    early_stopping        when beam search ends: True as soon as num_beams answers have ended, False when none that goes
                          on looks better by now, "never" when none that goes on can become better
    json_schema, json_object, regex, grammar (Lark), choices
                          at most one of them: what the whole answer has to look like, see `ConstraintSpec`
    """

    max_tokens: int = 64
    min_tokens: int = 0
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram_size: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    bad_words: tuple[str, ...] = ()
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    stop: tuple[str, ...] = ()
    seed: int | None = None
    top_logprobs: int = 0
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: EarlyStopping = False
    json_schema: Mapping[str, Any] | bool | None = None
    json_object: bool = False
    regex: str | None = None
    grammar: str | None = None
    choices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, (valid, expected) in _RULES.items():
            if not valid(value := getattr(self, name)):
                raise UserError(f"{name} = {value!r}, expected {expected}")
        if self.min_tokens > self.max_tokens:
            raise UserError(f"min_tokens = {self.min_tokens} is more than max_tokens = {self.max_tokens}: lower it")
        if self.num_beams > 1 and self.temperature > 0:
            raise UserError(
                f"num_beams = {self.num_beams} with temperature = {self.temperature}: beam search draws nothing, "
                "set one of them only"
            )
        if self.num_beams > 1 and self.stop:
            raise UserError("stop texts with num_beams: a beam ends at an end token only, leave one of them out")
        if self.num_beams > 1 and self.top_logprobs:
            raise UserError("top_logprobs with num_beams: a beam keeps only what it took, leave one of them out")
        if self.num_beams > 1 and self.constraint is not None:
            raise UserError(f"num_beams = {self.num_beams} with an answer of a given form: leave one of them out")

    @cached_property
    def constraint(self) -> ConstraintSpec | None:
        """What the answer has to look like; None where it is free. UserError for several forms at once."""
        forms: dict[str, Any] = {
            "json_schema": self.json_schema,
            "json_object": self.json_object or None,
            "regex": self.regex,
            "lark": self.grammar,
            "choices": self.choices or None,
        }
        asked = {name: form for name, form in forms.items() if form is not None}
        return ConstraintSpec(**asked) if asked else None

    @classmethod
    def of(cls, **options: Unpack[SamplingOptions]) -> "SamplingParams":
        """The settings given, defaults for the rest.

        >>> SamplingParams.of(stop="\\n").stop
        ('\\n',)
        """
        given: dict[str, Any] = dict(options)
        return cls(**given | {name: form(given[name]) for name, form in _FORMS.items() if name in given})


def _texts(value: Any) -> Any:
    """One text or several as a tuple; what is neither stays for the rules to refuse."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, Iterable) else () if value is None else value


def _sequences(value: Any) -> Any:
    entries = _texts(value)
    if not isinstance(entries, tuple):
        return entries
    return tuple(tuple(entry) if isinstance(entry, list) else entry for entry in entries)


def _bias(value: Any) -> Any:
    """Ids as numbers: JSON and TOML only know keys that are texts."""
    if not isinstance(value, Mapping):
        return {} if value is None else value
    return {int(key) if isinstance(key, str) and key.isdecimal() else key: bias for key, bias in value.items()}


def _schema(value: Any) -> Any:
    """JSON as text is read."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise UserError(f"json_schema is not JSON ({error}): give a JSON Schema") from error


_FORMS: dict[str, Callable[[Any], Any]] = {
    "stop": _texts,
    "bad_words": _texts,
    "bad_words_ids": _sequences,
    "logit_bias": _bias,
    "choices": _texts,
    "json_schema": _schema,
}
"""What brings the looser forms of `SamplingOptions` into that of the field."""


def _is_whole(value: Any, low: float, high: float = math.inf) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_within(value: Any, low: float, high: float) -> bool:
    """Whether it is a number from low to high; nan is not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _are_texts(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(text, str) and text for text in value)


def _are_sequences(value: Any) -> bool:
    return isinstance(value, tuple) and all(
        isinstance(ids, tuple) and ids and all(_is_whole(i, 0) for i in ids) for ids in value
    )


def _is_bias(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        _is_whole(token, 0) and _is_within(bias, -math.inf, 1e6) for token, bias in value.items()
    )


def _is_penalty(value: Any) -> bool:
    return _is_within(value, -100, 100)


_Rule = tuple[Callable[[Any], bool], str]
_SHARE = (lambda v: v is None or (_is_within(v, 0, 1) and v > 0), "a number above 0 and at most 1, or None")
_TEXTS = (_are_texts, "a tuple of texts, none of them empty")
_PENALTY = (_is_penalty, "a number from -100 to 100, 0 for none")
_RULES: dict[str, _Rule] = {
    "max_tokens": (lambda v: _is_whole(v, 1), "a whole number from 1, for example 64"),
    "min_tokens": (lambda v: _is_whole(v, 0), "a whole number from 0"),
    "temperature": (lambda v: _is_within(v, 0, 1e6), "a number from 0 (greedy) to a million, for example 0.7"),
    "top_k": (lambda v: v is None or _is_whole(v, 1), "a whole number from 1, or None to keep all tokens"),
    "top_p": _SHARE,
    "min_p": (lambda v: v is None or _is_within(v, 0, 1), "a number from 0 to 1, or None"),
    "typical_p": _SHARE,
    "repetition_penalty": (
        lambda v: _is_within(v, 1e-3, 1e3),
        "a number from 0.001 to 1000, 1 for none, for example 1.1",
    ),
    "presence_penalty": _PENALTY,
    "frequency_penalty": _PENALTY,
    "no_repeat_ngram_size": (lambda v: v is None or _is_whole(v, 1), "a whole number from 1, or None"),
    "logit_bias": (_is_bias, "token ids, each with a number that is added to its logit, for example {50256: -100}"),
    "bad_words": _TEXTS,
    "bad_words_ids": (_are_sequences, "sequences of token ids, none of them empty, for example [[12, 7], [99]]"),
    "stop": _TEXTS,
    "seed": (lambda v: v is None or _is_whole(v, 0, 2**63 - 1), "a whole number from 0 to 2**63 - 1, or None"),
    "top_logprobs": (lambda v: _is_whole(v, 0, 1000), "a whole number from 0 to 1000"),
    "num_beams": (lambda v: _is_whole(v, 1, 1000), "a whole number from 1 to 1000"),
    "length_penalty": (lambda v: _is_within(v, -10, 10), "a number from -10 to 10, for example 1.0"),
    "early_stopping": (lambda v: isinstance(v, bool) or v == "never", "True, False or 'never'"),
    "json_object": (lambda v: isinstance(v, bool), "True or False"),
}
