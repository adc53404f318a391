"""POST /tokenize and /detokenize, as vLLM has them, and what /v1/models/swap takes."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from vesalius.serve.protocol.base import Body, Name
from vesalius.serve.protocol.messages import MAX_MESSAGES, MAX_TOOLS, Message, Tool


class TokenizeRequest(Body):
    """A text or messages. `add_special_tokens` puts before a text what a prompt begins with."""

    model: Name | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)] | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_special_tokens: bool = True

    @model_validator(mode="after")
    def _one_of_both(self) -> "TokenizeRequest":
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("expected prompt or messages, one of them")
        return self


class DetokenizeRequest(Body):
    """Ids of tokens."""

    model: Name | None = None
    tokens: list[Annotated[int, Field(ge=0, lt=2**31)]]


class SwapRequest(Body):
    """The model that is to be served: an alias, a hub id, a .gguf file or a directory."""

    model: Annotated[str, Field(min_length=1, max_length=4096)]
