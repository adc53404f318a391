"""POST /v1/responses: OpenAI's newer form of a chat, without its store: a conversation is sent whole each time."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from vesalius.serve.errors import ApiError
from vesalius.serve.protocol.base import Body, Name, Part
from vesalius.serve.protocol.chat import MAX_TOP_LOGPROBS
from vesalius.serve.protocol.formats import ResponseFormat
from vesalius.serve.protocol.messages import (
    MAX_MESSAGES,
    MAX_TOOLS,
    Call,
    CalledFunction,
    ContentPart,
    Function,
    Message,
    Tool,
)

MESSAGE, CALL, OUTPUT, REASONING = "message", "function_call", "function_call_output", "reasoning"
LOGPROBS = "message.output_text.logprobs"


class Item(Part):
    """One thing that was said, thought, called, or given back. A message where it has no type."""

    type: Name = MESSAGE
    role: Name | None = None
    content: str | list[ContentPart] | None = None
    call_id: Name | None = None
    name: Name | None = None
    arguments: str | None = None
    output: str | list[ContentPart] | None = None


class FlatFunction(Function):
    """A tool, as responses write it."""

    type: Literal["function"]


class FlatChoice(Body):
    """One tool that has to be called."""

    type: Literal["function"]
    name: Name


class Text(Body):
    """The form of the text."""

    format: ResponseFormat | None = None
    verbosity: Name | None = None


class ReasoningOptions(Body):
    """How much the model is to think, where its chat template knows that."""

    effort: Name | None = None
    summary: Name | None = None
    generate_summary: Name | None = None


class ResponseRequest(Body):
    """A conversation to go on with."""

    model: Name | None = None
    input: str | Annotated[list[Item], Field(min_length=1, max_length=MAX_MESSAGES)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    tools: Annotated[list[FlatFunction], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | FlatChoice | None = None
    parallel_tool_calls: bool | None = None
    text: Text | None = None
    reasoning: ReasoningOptions | None = None
    include: list[Name] | None = None
    previous_response_id: Name | None = None
    background: bool | None = None
    # OpenAI's, without effect here
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: Name | None = None
    truncation: Literal["disabled", "auto"] | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    user: str | None = None


def messages_of_items(body: ResponseRequest) -> list[Message]:
    """The conversation as chats have it. Thoughts and calls that stand beside an assistant's message become part of it.

    ApiError for an item of a kind that is not known.
    """
    messages = [Message(role="system", content=body.instructions)] if body.instructions else []
    if isinstance(body.input, str):
        return [*messages, Message(role="user", content=body.input)]
    thoughts: str | None = None
    for place, item in enumerate(body.input):
        match item.type:
            case "reasoning":
                thoughts = _joined(item.content)
                continue
            case "message" if item.role is not None:
                message = Message(role=item.role, content=item.content)
            case "function_call" if item.name is not None:
                message = _call(item)
            case "function_call_output" if item.output is not None:
                message = Message(role="tool", content=item.output, tool_call_id=item.call_id)
            case _:
                raise ApiError(
                    400,
                    f"input item {place} of type {item.type[:50]!r}: expected a message with a role, a function_call "
                    "with a name, a function_call_output with an output, or reasoning",
                    param="input",
                )
        _append(messages, message, thoughts)
        thoughts = None
    return messages


def tools_of(tools: Sequence[FlatFunction] | None) -> list[Tool]:
    """The tools as chats have them."""
    return [Tool(type="function", function=Function(**tool.model_dump(exclude={"type"}))) for tool in tools or ()]


def _call(item: Item) -> Message:
    function = CalledFunction(name=item.name or "", arguments=item.arguments or "{}")
    return Message(role="assistant", content="", tool_calls=[Call(id=item.call_id, function=function)])


def _append(messages: list[Message], message: Message, thoughts: str | None) -> None:
    """Puts a message behind the others, or a call to those of the assistant's message before it."""
    last = messages[-1] if messages else None
    if message.tool_calls and last is not None and last.role == "assistant" and thoughts is None:
        messages[-1] = last.model_copy(update={"tool_calls": [*(last.tool_calls or ()), *message.tool_calls]})
        return
    if message.role == "assistant" and thoughts is not None:
        message = message.model_copy(update={"reasoning_content": thoughts})
    messages.append(message)


def _joined(content: str | list[ContentPart] | None) -> str:
    return content if isinstance(content, str) else "".join(part.text or "" for part in content or ())
