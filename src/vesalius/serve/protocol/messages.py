"""Messages and tools as OpenAI's chat API writes them, and as chat templates read them.

Templates take a text for a content, so parts are joined; and arguments of a call as an object, where the API has them
as a text that holds JSON.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import Field

from vesalius.serve.errors import ApiError
from vesalius.serve.protocol.base import Body, Name, Part

MAX_MESSAGES = 10_000
MAX_TOOLS = 256


class ContentPart(Part):
    """A piece of a content; only text is understood."""

    type: str
    text: str | None = None
    refusal: str | None = None


class CalledFunction(Part):
    """Which function was called, and with what: JSON in a text."""

    name: Name
    arguments: str = "{}"


class Call(Part):
    """A call that the model made."""

    id: Name | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Part):
    """One turn of a conversation."""

    role: Name
    content: str | list[ContentPart] | None = None
    name: Name | None = None
    tool_calls: Annotated[list[Call], Field(max_length=MAX_TOOLS)] | None = None
    tool_call_id: Name | None = None
    reasoning_content: str | None = None

    def for_template(self, place: int) -> dict[str, Any]:
        """The turn as a chat template reads it; `place` is for the error where it has more than text."""
        message: dict[str, Any] = {"role": self.role, "content": text_of(self.content, place)}
        for name in ("name", "tool_call_id", "reasoning_content"):
            if (value := getattr(self, name)) is not None:
                message[name] = value
        if self.tool_calls:
            message["tool_calls"] = [_for_template(call, place) for call in self.tool_calls]
            message["content"] = message["content"] or ""
        return message


class Function(Body):
    """A function that the model may call; `parameters` is a JSON schema of its arguments."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Body):
    """A tool of the chat API."""

    type: Literal["function"]
    function: Function


class NamedFunction(Body):
    """The name alone."""

    name: Name


class ToolChoice(Body):
    """One tool that has to be called."""

    type: Literal["function"]
    function: NamedFunction


def text_of(content: str | list[ContentPart] | None, place: int) -> str | None:
    """The text of a content. ApiError where it has an image, a sound or a file."""
    if content is None or isinstance(content, str):
        return content
    texts = []
    for part in content:
        text = part.text if part.text is not None else part.refusal
        if text is None:
            raise ApiError(
                400, f"message {place} has a part of type {part.type[:50]!r}: this model reads text", param="messages"
            )
        texts.append(text)
    return "".join(texts)


def _for_template(call: Call, place: int) -> dict[str, Any]:
    function = {"name": call.function.name, "arguments": _arguments(call.function.arguments, place)}
    return {"type": "function", "function": function} | ({"id": call.id} if call.id is not None else {})


def _arguments(text: str, place: int) -> dict[str, Any]:
    try:
        arguments = json.loads(text or "{}")
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        raise ApiError(400, f"message {place}: arguments of a call are no JSON object", param="messages")
    return arguments
