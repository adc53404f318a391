"""POST /v1/chat/completions, and POST /render, which shows what the model would read."""

from typing import Annotated, Any, Literal

from pydantic import Field

from vesalius.serve.protocol.base import Body, Name
from vesalius.serve.protocol.formats import ChatFormat
from vesalius.serve.protocol.messages import MAX_MESSAGES, MAX_TOOLS, Message, Tool, ToolChoice
from vesalius.serve.protocol.sampling import Sampling

MAX_TOP_LOGPROBS = 20


class StreamOptions(Body):
    """`include_usage`: a last chunk that counts tokens."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Conversation(Body):
    """What a chat template is given; `chat_template_kwargs` are its other variables, such as `enable_thinking`."""

    model: Name | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class ChatRequest(Sampling, Conversation):
    """A chat. `max_completion_tokens` is `max_tokens`' newer name; without either the context is the limit."""

    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    response_format: ChatFormat | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Name | None = None
    modalities: list[Literal["text"]] | None = None
    # OpenAI's, without effect here
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: Name | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Name | None = None
    safety_identifier: str | None = None
