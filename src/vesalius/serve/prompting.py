"""From a conversation in a request to what the engine needs: ids, settings, a grammar, and who reads the answer.

Chats and responses say the same in two forms; both come here. Templates and grammars take milliseconds, and seconds
for a large prompt, so they are made in a thread beside the event loop.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vesalius.infer.constrain import ConstraintSpec, compile_constraint
from vesalius.infer.detokenize import Detokenizer
from vesalius.infer.params import SamplingParams
from vesalius.infer.sequence import Constraint
from vesalius.serve.answers import Answers, Writing
from vesalius.serve.errors import ApiError
from vesalius.serve.notes import current_notes
from vesalius.serve.protocol.formats import FlatSchemaFormat, ObjectFormat, SchemaFormat, TextFormat
from vesalius.serve.protocol.messages import Message, Tool
from vesalius.serve.service import Served, Service
from vesalius.serve.tools.parsing import AnswerParser

PROMPT_END = 16
"""Tokens at the end of a prompt that tell whether it has opened a thought."""

Format = TextFormat | ObjectFormat | SchemaFormat | FlatSchemaFormat | None


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """What a model is to go on with.

    tools     those that it is told of
    choice    "none", "auto", "required", or the name of one that has to be called, as ("name",)
    parallel  whether it may call several at once
    options   other variables of the chat template
    """

    messages: Sequence[dict[str, Any]]
    tools: Sequence[Tool] = ()
    choice: str | tuple[str] = "auto"
    parallel: bool = True
    format: Format = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [tool.function.name for tool in self.tools]
        if isinstance(self.choice, tuple) and self.choice[0] not in names:
            raise ApiError(
                400, f"tool_choice names {self.choice[0]!r}, which is not among the tools", param="tool_choice"
            )
        if self.choice == "required" and not names:
            raise ApiError(400, "tool_choice is 'required', and there are no tools", param="tool_choice")
        if len(set(names)) < len(names):
            raise ApiError(400, "two tools have the same name", param="tools")

    @property
    def offered(self) -> list[dict[str, Any]] | None:
        """The tools as the chat template reads them; None where none may be called."""
        if not self.tools or self.choice == "none":
            return None
        return [tool.model_dump(exclude_none=True) for tool in self.tools]


def messages_of(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """As the chat template reads them. ApiError for what is no text."""
    return [message.for_template(place) for place, message in enumerate(messages)]


async def prompt_ids(served: Served, conversation: Conversation) -> list[int]:
    """What the model reads of a conversation."""
    return await asyncio.to_thread(
        served.lm.prompt_ids,
        conversation.messages,
        tools=conversation.offered,
        template_options=conversation.options,
    )


async def begin(
    service: Service, served: Served, conversation: Conversation, params: SamplingParams, *, n: int, patient: bool
) -> Answers:
    """Asks the engine for n answers to a conversation. UserError or ApiError where it is not accepted."""
    ids = await prompt_ids(served, conversation)
    constraint = await asyncio.to_thread(_constraint, served, conversation)
    note_prompt(service, served, ids)
    patient = patient and not params.stop
    ticket = await service.generate([ids], params, n=n, constraint=constraint, patient=patient)
    writings = [
        Writing(place, Detokenizer(served.lm.tokenizer, params.stop), _parser(served, conversation, ids))
        for place in range(n)
    ]
    return Answers(service, ticket, writings, n=n)


def note_prompt(service: Service, served: Served, ids: list[int]) -> None:
    """Puts a prompt down in the notes of the request."""
    notes = current_notes()
    notes.model = served.name
    notes.prompt_tokens += len(ids)
    if service.settings.log_prompts:
        notes.prompts.append(served.lm.tokenizer.decode(ids))


def _parser(served: Served, conversation: Conversation, ids: list[int]) -> AnswerParser | None:
    """Who takes the answer apart; nobody where the model neither thinks nor may call."""
    names = [tool.function.name for tool in conversation.tools] if conversation.offered else []
    if served.style.thought is None and not (names and served.style.calls):
        return None
    end = served.lm.tokenizer.decode(ids[-PROMPT_END:])
    return AnswerParser(served.style, names, thinking=served.style.opens_thought(end))


def _constraint(served: Served, conversation: Conversation) -> Constraint | None:
    match conversation.format:
        case SchemaFormat(json_schema=schema) | (FlatSchemaFormat() as schema):
            return compile_constraint(served.lm.tokenizer, ConstraintSpec(json_schema=schema.schema_))
        case ObjectFormat():
            return compile_constraint(served.lm.tokenizer, ConstraintSpec(json_object=True))
    return None
