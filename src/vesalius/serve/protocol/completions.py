"""POST /v1/completions: a text, or several, to go on from."""

from typing import Annotated

from pydantic import Field

from vesalius.serve.protocol.chat import MAX_TOP_LOGPROBS, StreamOptions
from vesalius.serve.protocol.sampling import Sampling

MAX_PROMPTS = 1024

Ids = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]
Texts = (
    str
    | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)]
    | Ids
    | Annotated[list[Ids], Field(min_length=1, max_length=MAX_PROMPTS)]
)


class CompletionRequest(Sampling):
    """A completion. `echo` puts the prompt before it; with `max_tokens: 0` and `logprobs` that scores a text."""

    prompt: Texts = ""
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    echo: bool | None = None
    best_of: Annotated[int, Field(ge=1)] | None = None
    suffix: str | None = None


def prompts_of(texts: Texts) -> list[str | list[int]]:
    """One by one, each a text or ids.

    >>> prompts_of([1, 2]), prompts_of(["a", "b"])
    ([[1, 2]], ['a', 'b'])
    """
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts[0], int):
        return [texts]
    return list(texts)
