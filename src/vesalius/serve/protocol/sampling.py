"""How an answer is drawn, as far as requests of every kind say it alike. `SamplingParams` explains and checks them."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from vesalius.infer.params import SamplingOptions, SamplingParams
from vesalius.serve.errors import ApiError
from vesalius.serve.protocol.base import Body, Name, Stop

Bias = Annotated[float, Field(ge=-100, le=100)]
TokenId = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]

TEMPERATURE = 1.0
"""OpenAI's, where neither the request nor the model's makers say one."""

OURS = (
    "top_k",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "min_tokens",
    "regex",
    "grammar",
    "choices",
)
SHARED = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "logit_bias", "stop", *OURS)
"""Fields that are settings of `SamplingParams` under the same name."""


class Sampling(Body):
    """The settings; None is the model's own, or else OpenAI's. Those of `OURS` are beyond OpenAI's API."""

    model: Name | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: Annotated[int, Field(ge=1, le=1024)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    stop: Stop | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: Annotated[dict[TokenId, Bias], Field(max_length=1024)] | None = None
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    min_tokens: int | None = None
    regex: str | None = None
    grammar: str | None = None
    choices: Annotated[list[str], Field(max_length=1024)] | None = None
    user: str | None = None

    def params(self, defaults: SamplingOptions, **more: Any) -> SamplingParams:
        """The engine's settings: what is given here, before the model's `defaults`. UserError out of a range."""
        return sampling_params({name: getattr(self, name) for name in SHARED} | {"seed": self.seed}, defaults, **more)


def sampling_params(asked: Mapping[str, Any], defaults: SamplingOptions, **more: Any) -> SamplingParams:
    """Settings from fields of a request, None where it doesn't say. Seeds below 0, which OpenAI takes, count from
    2**63 down."""
    given = {name: value for name, value in asked.items() if value is not None}
    if "seed" in given:
        given["seed"] %= 2**63
    return SamplingParams.of(**{"temperature": TEMPERATURE, **defaults, **given, **more})


def check_bias(bias: Mapping[str, float] | None, vocab_size: int) -> None:
    """ApiError for an id that no token has."""
    if unknown := next((token for token in bias or () if int(token) >= vocab_size), None):
        raise ApiError(400, f"token {unknown} is not in the vocabulary of {vocab_size}", param="logit_bias")
