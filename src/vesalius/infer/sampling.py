"""Choosing the next token: what the caller asks for, the processors that reshape the distribution, and the draw.

A processor maps scores (…, V) to scores (…, V) and removes a token by giving it -inf. They run in the order that
transformers uses: temperature, top-k, top-p (Holtzman et al. 2020, arXiv:1904.09751, section 3.1), min-p (Nguyen et
al. 2024, arXiv:2407.01082, section 3), so the same settings mean the same distribution in both libraries. Left out:
penalties, typical sampling and constraints; each is one more function here and one more line in `process`.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor

from vesalius.core.errors import UserError

GREEDY_BELOW = 1e-5
"""Dividing logits by a smaller temperature overflows float32, and the draw would be the greedy one anyway."""


class SamplingOptions(TypedDict, total=False):
    """The settings of `SamplingParams` as keyword arguments; `stop` may also be one text, any iterable of texts, or
    None."""

    max_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    seed: int | None
    stop: str | Iterable[str] | None


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How one sequence is generated. UserError where a setting is out of its range.

    max_tokens   the most tokens to generate
    temperature  divides the logits; 0 takes the likeliest token
    top_k        keeps the k likeliest tokens
    top_p        keeps the fewest likeliest tokens whose probabilities add up to p
    min_p        keeps the tokens at least min_p times as likely as the likeliest
    seed         makes the draws repeatable; None draws anew each time
    stop         texts that end the generation; they are not part of the answer
    """

    max_tokens: int = 64
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, (valid, expected) in _RULES.items():
            if not valid(value := getattr(self, name)):
                raise UserError(f"{name} = {value!r}, expected {expected}")

    @classmethod
    def of(cls, **options: Unpack[SamplingOptions]) -> "SamplingParams":
        """The settings given, defaults for the rest.

        >>> SamplingParams.of(stop="\\n").stop
        ('\\n',)
        """
        stop = options.pop("stop", None)
        options["stop"] = (stop,) if isinstance(stop, str) else tuple(stop or ())
        return cls(**options)  # type: ignore[arg-type]  # `stop` is a tuple by now


def sample(logits: Tensor, params: SamplingParams, generator: torch.Generator | None = None) -> Tensor:
    """logits (…, V) -> one token id for each row (…), int64: the likeliest at temperature 0, else drawn after
    `process`."""
    if params.temperature < GREEDY_BELOW:
        return logits.argmax(-1)
    probabilities = process(logits, params).softmax(-1)
    draws = torch.multinomial(probabilities.view(-1, logits.shape[-1]), 1, generator=generator)  # (rows, 1)
    return draws.view(logits.shape[:-1])


def process(logits: Tensor, params: SamplingParams) -> Tensor:
    """logits (…, V) -> scores (…, V): every processor that `params` asks for, in order."""
    scores = temperature(logits, params.temperature)
    if params.top_k is not None:
        scores = top_k(scores, params.top_k)
    if params.top_p is not None and params.top_p < 1:
        scores = top_p(scores, params.top_p)
    if params.min_p is not None:
        scores = min_p(scores, params.min_p)
    return scores


def temperature(scores: Tensor, value: float) -> Tensor:
    """Divides by `value` > 0: below 1 sharpens the distribution, above 1 flattens it."""
    return scores / value


def top_k(scores: Tensor, k: int) -> Tensor:
    """Removes all but the k highest scores (…, V); ties with the k-th stay."""
    kth = scores.topk(min(k, scores.shape[-1])).values[..., -1:]  # (…, 1)
    return scores.masked_fill(scores < kth, -math.inf)


def top_p(scores: Tensor, p: float) -> Tensor:
    """Keeps the smallest set of likeliest tokens whose probabilities reach p; at least one token stays.

    >>> top_p(torch.tensor([[0.5, 0.3, 0.2]]).log(), 0.7).softmax(-1)
    tensor([[0.6250, 0.3750, 0.0000]])
    """
    ascending, order = scores.sort(-1)
    removed = ascending.softmax(-1).cumsum(-1) <= 1 - p  # the least likely tokens that together weigh at most 1 - p
    removed[..., -1] = False
    return scores.masked_fill(removed.scatter(-1, order, removed), -math.inf)


def min_p(scores: Tensor, fraction: float) -> Tensor:
    """Removes tokens less likely than `fraction` times the likeliest."""
    probabilities = scores.softmax(-1)
    return scores.masked_fill(probabilities < fraction * probabilities.amax(-1, keepdim=True), -math.inf)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_within(value: Any, low: float, high: float) -> bool:
    """Whether it is a number from low to high; nan is not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


_Rule = tuple[Callable[[Any], bool], str]
_RULES: dict[str, _Rule] = {
    "max_tokens": (lambda v: _is_whole(v) and v >= 1, "a whole number from 1, for example 64"),
    "temperature": (lambda v: _is_within(v, 0, 1e6), "a number from 0 (greedy) to a million, for example 0.7"),
    "top_k": (lambda v: v is None or (_is_whole(v) and v >= 1), "a whole number from 1, or None to keep all tokens"),
    "top_p": (lambda v: v is None or (_is_within(v, 0, 1) and v > 0), "a number above 0 and at most 1, or None"),
    "min_p": (lambda v: v is None or _is_within(v, 0, 1), "a number from 0 to 1, or None"),
    "seed": (lambda v: v is None or (_is_whole(v) and 0 <= v < 2**63), "a whole number from 0 to 2**63 - 1, or None"),
    "stop": (
        lambda v: isinstance(v, tuple) and all(isinstance(text, str) and text for text in v),
        "a tuple of texts, none of them empty",
    ),
}
