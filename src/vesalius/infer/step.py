"""What the engine gives, one token at a time."""

from typing import Literal, NamedTuple

FinishReason = Literal["stop", "length"]
"""OpenAI's words: "stop" at an end token, at a stop text, or where a grammar ends that no end token can; "length" at
max_tokens or at the end of the context."""


class Step(NamedTuple):
    """One new token.

    logprob       the model's own log-probability of it, before every processor
    top_logprobs  those of the likeliest tokens, best first, as many as the settings ask for
    """

    id: int
    logprob: float
    finish_reason: FinishReason | None
    top_logprobs: dict[int, float]
