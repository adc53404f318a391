"""Messages and tools as OpenAI's chat API writes them.

A content of several parts becomes one text; what else templates want is made in `tools/messages.py`.
"""

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
    """Which function was called, and with what: JSON in a text, or what it says."""

    name: Name
    arguments: str | dict[str, Any] = "{}"


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

    def as_told(self, place: int) -> dict[str, Any]:
        """The turn with its content as one text; `place` is for the error where it has more than text."""
        return {**self.model_dump(exclude_none=True), "content": text_of(self.content, place)}


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
